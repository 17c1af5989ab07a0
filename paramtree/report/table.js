(id, ranks) => {
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  for (const table of document.querySelectorAll(`table[data-paramtree="${id}"]`)) {
    if (table.paramtreeReady) continue;
    table.paramtreeReady = true;
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    // a page saved to a file keeps the order it was sorted in, and the numbers that lead back
    [...body.rows].forEach((row, place) => (row.dataset.row ??= place));
    const rows = [...body.rows].sort((a, b) => a.dataset.row - b.dataset.row);
    const sort = (head, column) => {
      const order = next[head.getAttribute("aria-sort")];
      for (const other of heads) other.setAttribute("aria-sort", other === head ? order : "none");
      const rank = ranks[column];
      const sign = order === "descending" ? -1 : 1;
      const places = [...rows.keys()];
      if (order !== "none") {
        places.sort((a, b) => (rank[a] < 0) - (rank[b] < 0) || sign * (rank[a] - rank[b]));
      }
      body.replaceChildren(...places.map((place) => rows[place]));
    };
    heads.forEach((head, column) => {
      let button = head.querySelector("button");
      if (!button) {
        button = document.createElement("button");
        button.type = "button";
        button.append(...head.childNodes);
        head.append(button);
        head.setAttribute("aria-sort", "none");
      }
      button.title = "sort: up, down, as it was";
      button.onclick = () => sort(head, column);
    });
  }
}
