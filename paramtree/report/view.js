(id) => {
  const copyIcon = '<path d="M5.5 5.5h8v8h-8zM3 10.5h-.5v-8h8V3"/>';
  const doneIcon = '<path d="M2.5 8.5l4 4 7-9"/>';
  const svg = (path) => `<svg viewBox="0 0 16 16" aria-hidden="true">${path}</svg>`;
  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

  // the pattern must match the whole name, and is written as Python writes it: what JavaScript writes otherwise,
  // inside of brackets or not, is translated
  const WORD = "\\p{L}\\p{N}_";
  const escape = (sign, inside) => {
    if (sign === "w") return inside ? WORD : `[${WORD}]`;
    if (sign === "W" && !inside) return `[^${WORD}]`;
    if (sign === "d") return "\\p{Nd}";
    if (sign === "D") return "\\P{Nd}";
    if (sign === "A" && !inside) return "^";
    if (sign === "Z" && !inside) return "$";
    return /[\w^$\\.*+?()[\]{}|/]/.test(sign) || (inside && sign === "-") ? `\\${sign}` : sign;
  };
  const ESCAPES = /\\(?:U([0-9a-fA-F]{8})|([^]))/gu;
  const escapes = (text, inside) =>
    text.replace(ESCAPES, (_, point, sign) => (point ? `\\u{${point.replace(/^0+(?=.)/, "")}}` : escape(sign, inside)));
  const PARTS =
    /\[(\^?)(\]?(?:\\[^]|[^\]\\])*)\]|\\(?:U[0-9a-fA-F]{8}|[^])|\(\?P<|\(\?P=(\w+)\)|\{,(\d*)\}|\{\d+(?:,\d*)?\}|[{}\]]/gu;
  const bracket = (not, inside) => {
    let notWord = false; // its own brackets, as JavaScript knows no complement of several classes in others
    const rest = inside.replace(/\\([^])/gu, (part, sign) => (sign === "W" ? ((notWord = true), "") : part));
    const set = `[${not && !notWord ? "^" : ""}${escapes(rest.replace(/^\]/, "\\]"), true)}]`;
    if (!notWord) return set;
    return not ? `(?:(?!${set})[${WORD}])` : `(?:[^${WORD}]|${set})`;
  };
  const translate = (text) =>
    text.replace(PARTS, (part, not, inside, group, most) => {
      if (inside !== undefined) return bracket(not, inside);
      if (part === "(?P<") return "(?<";
      if (group) return `\\k<${group}>`;
      if (most !== undefined) return `{0,${most}}`;
      if (part.length === 1) return `\\${part}`;
      return escapes(part, false);
    });
  const compile = (text) => {
    const flags = /^\(\?([ims]+)\)/.exec(text);
    const body = translate(text.slice(flags ? flags[0].length : 0));
    new RegExp(body, "u");
    const more = flags ? [...flags[1]].filter((flag) => flag !== "s").join("") : "";
    return new RegExp(`^(?:${body})$`, `su${[...new Set(more)].join("")}`);
  };

  const write = async (text, root) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = make("textarea", { value: text });
      root.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };

  const prepare = (root) => {
    const tree = root.querySelector(".paramtree-tree");
    // a page saved to a file holds what was added here
    root.querySelectorAll(".paramtree-tools, .paramtree-copy").forEach((old) => old.remove());
    const entries = [];
    const read = (list, above) => {
      for (const item of list.children) {
        const details = item.classList.contains("b") ? item.firstElementChild : null;
        const line = details ? details.firstElementChild : item;
        const key = line.firstElementChild;
        const name = above + (key.dataset.key ?? key.textContent);
        const tie = line.querySelector(":scope > i");
        const inside = tie ? JSON.parse(tie.dataset.inside ?? '[""]').map((rest) => name + rest) : [];
        item.hidden = false;
        entries.push({ item, details, line, key, name, tie, inside: tie ? [name, ...inside] : [name] });
        if (details) read(details.lastElementChild, `${name}/`);
      }
    };
    read(tree.lastElementChild, "");
    const byItem = new Map(entries.map((entry) => [entry.item, entry]));
    const blocks = entries.filter((entry) => entry.details);
    const leaves = entries.filter((entry) => !entry.details);
    const known = leaves.filter((entry) => !entry.tie).length;

    // lines are given their buttons when they are first seen: a page of thousands opens sooner
    const button = make("button", { type: "button", className: "paramtree-copy", innerHTML: svg(copyIcon) });
    const addCopies = (list) => {
      for (const item of list.children) {
        const { key, name, line } = byItem.get(item);
        if (line.querySelector(":scope > .paramtree-copy")) continue;
        const copy = button.cloneNode(true);
        copy.title = `copy ${name}`;
        copy.setAttribute("aria-label", copy.title);
        key.title = name;
        key.after(copy);
      }
    };
    addCopies(tree.lastElementChild);
    for (const { details } of blocks) if (details.open) addCopies(details.lastElementChild);
    tree.addEventListener("toggle", (event) => addCopies(event.target.lastElementChild), true);

    const field = make("input", { type: "search", placeholder: "whole names, such as .*weight", spellcheck: false });
    field.setAttribute("aria-label", "search: a regular expression that matches the whole name");
    const told = make("output", {});
    const tools = make("div", { className: "paramtree-tools" });
    const fold = (label, open) => {
      const all = make("button", { type: "button", textContent: label });
      all.onclick = () => blocks.forEach(({ details }) => (details.open = open));
      return all;
    };
    const folding = blocks.length ? [fold("open all", true), fold("fold all", false)] : [];
    tools.append(field, ...folding, told);
    tree.before(tools);

    const hitsOf = (text) => {
      const same = leaves.filter((entry) => entry.name === text);
      if (same.length) return same; // a name means itself, though its dots would match more
      const pattern = compile(text);
      return leaves.filter((entry) => entry.inside.some((name) => pattern.test(name)));
    };
    const meant = (text) => {
      for (const other of [`${text}/.*`, `.*${text}`, `.*${text}.*`]) {
        try {
          if (hitsOf(other).length) return other;
        } catch {}
      }
      return "";
    };
    const tell = (hits) => {
      const ties = hits.filter((entry) => entry.tie).length;
      const found = hits.length - ties;
      const said = `${found.toLocaleString("en")} of ${known.toLocaleString("en")} parameters`;
      told.textContent = ties ? `${said}, ${ties.toLocaleString("en")} tied` : said;
      const other = hits.length ? "" : meant(field.value);
      if (!other) return;
      const offer = make("button", { type: "button", textContent: other });
      offer.onclick = () => {
        field.value = other;
        search();
      };
      told.append(". Did you mean ", offer);
    };
    let folds = null; // which blocks were open before the search
    const search = () => {
      let hits;
      try {
        hits = field.value ? hitsOf(field.value) : null;
      } catch (error) {
        field.setAttribute("aria-invalid", "true");
        told.textContent = error.message.replace(/^.*\/[a-z]*: /, "not a regular expression: ");
        return;
      }
      field.removeAttribute("aria-invalid");
      if (!hits) {
        told.textContent = "";
        for (const { item } of entries) item.hidden = false;
        for (const [details, open] of folds ?? []) details.open = open;
        folds = null;
        return;
      }
      folds ??= blocks.map(({ details }) => [details, details.open]);
      const shown = new Set();
      for (const { item } of hits) {
        for (let each = item; each && !shown.has(each); each = each.parentNode.closest("li")) shown.add(each);
      }
      for (const { item, details } of entries) {
        item.hidden = !shown.has(item);
        if (details && shown.has(item)) details.open = true;
      }
      tell(hits);
    };
    field.oninput = search;
    field.onkeydown = (event) => {
      event.stopPropagation(); // or the notebook takes the keys for its own
      if (event.key === "Escape" && field.value) {
        field.value = "";
        search();
      }
    };

    const follow = (link) => {
      const line = root.querySelector(`#${CSS.escape(link.hash.slice(1))}`);
      const item = line.closest("li");
      if (item.hidden) {
        field.value = "";
        search();
      }
      for (let each = item; each; each = each.parentNode.closest("li")) {
        const { details } = byItem.get(each);
        if (details) details.open = true;
      }
      root.querySelectorAll(".paramtree-found").forEach((old) => old.classList.remove("paramtree-found"));
      line.classList.add("paramtree-found");
      line.scrollIntoView({ block: "nearest" });
      line.tabIndex = line.tagName === "LI" ? -1 : 0;
      line.focus({ preventScroll: true });
      setTimeout(() => line.classList.remove("paramtree-found"), 4000);
    };
    tree.addEventListener("click", (event) => {
      const link = event.target.closest("a");
      const copy = event.target.closest(".paramtree-copy");
      if (!link && !copy) return;
      event.preventDefault(); // neither a jump nor a fold
      if (link) return follow(link);
      write(byItem.get(copy.closest("li")).name, root);
      copy.dataset.done = "";
      copy.innerHTML = svg(doneIcon);
      setTimeout(() => {
        delete copy.dataset.done;
        copy.innerHTML = svg(copyIcon);
      }, 1200);
    });
  };

  for (const root of document.querySelectorAll(`.paramtree-view[data-paramtree="${id}"]`)) {
    if (!root.paramtreeReady) prepare(root);
    root.paramtreeReady = true;
  }
}
