"""Pages for notebooks, in a browser: what folds, is searched, followed, copied and sorted."""

import json
import os
import re
import shutil
import subprocess
from html import unescape

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import paramtree as pt
from paramtree.report.outline import blocks_of, read_outline
from paramtree.report.page import sortable_table
from paramtree.report.view import show

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

TREE = {
    "embed": {"weight": jnp.arange(6.0).reshape(3, 2)},
    "encoder": {
        f"layer{n}": {"weight": jnp.array([[0.5, jnp.nan], [jnp.inf, 1.0]]), "mean": pt.Fixed(jnp.ones(2))}
        for n in (10, 2)
    },
    "head": {"weight": pt.Alias("embed/weight", transpose=True), "bias": pt.Frozen(jnp.zeros(3))},
    "again": pt.Alias("encoder/layer2"),
    "count": np.array(7),
    "label": "decay",
}


@pytest.fixture
def browser(tmp_path):
    """Run a script in a page, and give what it returns; it may wait."""
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    home = tmp_path / "browser"

    def run(body, script):
        page = tmp_path / "page.html"
        helpers = (
            "const $ = (css, within = document) => within.querySelector(css);"
            "const $$ = (css, within = document) => [...within.querySelectorAll(css)];"
            "const line = (name) => $$('b').find((b) => b.title === name).parentNode;"
            "const seen = (within = document) => $$('.paramtree-tree ul b', within)"
            ".filter((b) => b.checkVisibility()).map((b) => b.textContent);"
            "const type = (text, within = document) => {"
            "  $('input', within).value = text; $('input', within).dispatchEvent(new Event('input')); };"
            "const wait = (ms) => new Promise((done) => setTimeout(done, ms));"
        )
        page.write_text(
            "<!doctype html><meta charset=utf-8><title>page</title>"
            f"<body>{body}<pre id=result></pre><script>{helpers}(async () => {{ {script} }})()"
            ".catch((error) => ({ error: error.stack })).then((found) => {"
            "$('#result').textContent = JSON.stringify(found); })</script>"
        )
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=900,500"]
        flags += ["--dump-dom", "--virtual-time-budget=20000", f"--user-data-dir={home}"]
        done = subprocess.run(
            [CHROMIUM, *flags, page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        found = re.search('<pre id="result">(.+?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stderr
        return json.loads(unescape(found[1]))

    return run


# --- tables -------------------------------------------------------------------------------------------------

HEAD = ("name", "count", "mean", "note")
ROWS = [
    ("layer10", "1,000", "0.5", ""),
    ("layer2", "20", "nan", "x10"),
    ("bias", "300", "-1e9", "x9"),
    ("end", "300", "3", "a"),
]
KEYS = [("layer10", 1000, 0.5, ""), ("layer2", 20, float("nan"), "x10"), ("bias", 300, -1e9, "x9")]
KEYS += [("end", 300, 3, "a")]
FIRST_CELLS = "const first = (t) => $$('tbody tr', t).map((row) => row.cells[0].textContent);"


def table():
    return sortable_table("four", HEAD, ROWS, KEYS)


def test_a_click_sorts_up_then_down_then_as_it_was(browser):
    script = """
        const found = {};
        for (const [place, button] of $$("th button").entries()) {
          found[place] = [];
          for (let click = 0; click < 3; click++) {
            button.click();
            found[place].push([first(document), button.closest("th").getAttribute("aria-sort")]);
          }
        }
        return found;
    """
    found = browser(table(), FIRST_CELLS + script)
    orders = {
        "0": [["bias", "end", "layer2", "layer10"], ["layer10", "layer2", "end", "bias"]],
        "1": [
            ["layer2", "bias", "end", "layer10"],
            ["layer10", "bias", "end", "layer2"],
        ],  # equal: as they were
        "2": [["bias", "layer10", "end", "layer2"], ["end", "layer10", "bias", "layer2"]],  # NaN: always last
        "3": [
            ["end", "bias", "layer2", "layer10"],
            ["layer2", "bias", "end", "layer10"],
        ],  # none: always last
    }
    as_it_was = [row[0] for row in ROWS]
    assert found == {
        place: [[up, "ascending"], [down, "descending"], [as_it_was, "none"]]
        for place, (up, down) in orders.items()
    }


def test_one_column_is_sorted_by_at_a_time(browser):
    script = """
        $$("th button")[0].click();
        $$("th button")[1].click();
        return $$("th").map((head) => head.getAttribute("aria-sort"));
    """
    assert browser(table(), script) == ["none", "ascending", "none", "none"]


def test_tables_in_one_page_are_sorted_apart_and_alike_ones_too(browser):
    other = sortable_table("two", ["a"], [["1"], ["2"]], [[1], [2]])
    script = """
        const tables = $$("table");
        $("button", tables[1]).click();
        $("button", tables[2]).click();
        $("button", tables[2]).click();
        return tables.map(first);
    """
    plain = [row[0] for row in ROWS]
    found = browser(table() + table() + other, FIRST_CELLS + script)
    assert found == [plain, ["bias", "end", "layer2", "layer10"], ["2", "1"]]


def test_a_table_whose_script_is_run_again_or_that_was_saved_sorts_on(browser):
    script = """
        const again = () => {
          const old = $("body > script");
          const copy = document.createElement("script");
          copy.textContent = old.textContent;
          old.replaceWith(copy);
        };
        $("th button").click();
        again();
        const before = $$("th button").length;
        $("table").outerHTML = $("table").outerHTML;  // what a page saved to a file holds
        again();
        const saved = [first(document), $$("th button").length];
        $("th button").click();
        $("th button").click();
        return [before, saved, first(document)];
    """
    up = ["bias", "end", "layer2", "layer10"]
    assert browser(table(), FIRST_CELLS + script) == [4, [up, 4], [row[0] for row in ROWS]]


def test_a_table_is_a_table_where_no_script_is_run():
    page = re.sub("<script>.*</script>", "", table(), flags=re.DOTALL)
    assert "<button" not in page
    assert page.count("<tr>") == 5
    assert "<th>name</th><th>count</th>" in page
    assert "<td>bias</td><td>300</td><td>-1e9</td><td>x9</td>" in page


def test_columns_of_numbers_stand_at_the_right(browser):
    script = "return $$('tbody tr:first-child td').map((cell) => getComputedStyle(cell).textAlign)"
    assert browser(table(), script) == ["left", "right", "right", "left"]


def test_a_table_escapes_all_it_is_given(browser):
    bad = "</script><script>document.title='caught'</script>\"'&<b>"
    page = sortable_table(bad, [bad], [[bad], ["a"]], [[bad], ["a"]])
    script = """
        $("th button").click();
        return [document.title, $("caption").textContent, $("th").textContent, $("td").textContent];
    """
    assert browser(page, script)[:3] == ["page", bad, bad]
    assert browser(page, "return $('td').textContent") == bad


def test_a_very_long_table_shows_its_first_rows_and_counts_the_rest(browser):
    rows = [[str(place)] for place in range(5_003)]
    page = sortable_table("long", ["place"], rows, [[place] for place in range(5_003)])
    script = """
        $("th button").click();
        $("th button").click();
        return [$$("tbody tr").length, $("tbody td").textContent, $("tfoot").textContent];
    """
    assert browser(page, script) == [5000, "4999", "... 3 more ..."]


def test_a_table_without_rows():
    assert "<tbody></tbody>" in sortable_table("none", ["name"], [], [])


def test_a_table_has_one_id_for_one_content():
    ids = [re.findall('data-paramtree="(\\w+)"><caption', page)[0] for page in (table(), table())]
    other = sortable_table("five", HEAD, ROWS, KEYS)
    assert ids[0] == ids[1]
    assert ids[0] not in other


# --- a tree as text -----------------------------------------------------------------------------------------


def test_a_tree_as_text():
    assert show(TREE).to_text(80) == (
        "8 parameters, 22 elements, 92 B, 2 tied, 3 fixed, 2 NaN, 2 Inf\n"
        "name        shape, dtype                  count\n"
        "again       -> encoder/layer2\n"
        "count       () int64                          1\n"
        "embed       1 parameter                       6\n"
        "  weight    (3, 2) float32                    6\n"
        "encoder     4 parameters, 2 NaN, 2 Inf       12\n"
        "  layer2    2 parameters, 1 NaN, 1 Inf        6\n"
        "    weight  (2, 2) float32, 1 NaN, 1 Inf      4\n"
        "    mean    (2,) float32, fixed               2\n"
        "  layer10   2 parameters, 1 NaN, 1 Inf        6\n"
        "    weight  (2, 2) float32, 1 NaN, 1 Inf      4\n"
        "    mean    (2,) float32, fixed               2\n"
        "head        1 parameter                       3\n"
        "  weight    -> embed/weight, transposed\n"
        "  bias      (3,) float32, frozen              3\n"
        "label       str, 'decay'"
    )


def test_a_tree_is_never_wider_than_it_may_be():
    text = show({"a" * 50: {"b" * 50: jnp.ones(3)}}).to_text(60)
    assert max(map(len, text.splitlines()[1:])) <= 60


def test_an_empty_tree():
    for empty in ({}, {"a": {}}, []):
        assert repr(show(empty)) == "0 parameters"
        assert "0 parameters</header></div>" in show(empty).to_html()
        assert "<script>" not in show(empty).to_html()


def test_a_view_does_not_change_and_prints_as_its_text():
    view = show({"a": jnp.ones(2)})
    assert repr(view) == view.to_text()
    assert view._repr_html_() == view.to_html()
    with pytest.raises(AttributeError):
        view.rows = ()


def test_a_select_shows_what_it_hits_and_what_is_tied_to_that():
    assert [row.name for row in show(TREE, "embed/.*").rows] == ["embed/weight", "head/weight"]
    assert show(TREE, "encoder/layer2/.*").rows[0].name == "again"
    part = show(TREE, "encoder/.*/weight").rows[0]  # not all of the tied block
    assert (part.name, part.tied) == ("again/weight", "encoder/layer2/weight")


def test_what_a_select_hits_nothing_with_is_said():
    with pytest.raises(pt.NoMatchError) as caught:
        show({"dense0": {"weight": jnp.ones(2)}}, "dense0")
    assert str(caught.value) == (
        "select 'dense0' hits nothing; it must match the whole name. Did you mean 'dense0/.*'? "
        "Nearest: dense0/weight."
    )


def test_a_tie_that_leads_nowhere_is_said():
    with pytest.raises(pt.TieError, match=r"^'b' is tied to 'c', which is not in this tree\."):
        show({"a": jnp.ones(2), "b": pt.Alias("c")})


def test_a_tie_to_a_tie_leads_to_where_the_parameter_lives():
    tree = {"a": {"w": jnp.ones((2, 3))}, "b": {"w": pt.Alias("a/w", transpose=True)}, "c": pt.Alias("b")}
    assert [row.tied for row in show(tree).rows] == ["", "a/w", "b"]
    part = show(tree, "a/w").rows
    assert [(row.tied, row.transposed) for row in part] == [("", False), ("a/w", True), ("b", False)]


def test_a_tree_as_json_can_hold_it():
    found = json.loads(json.dumps(show(TREE).to_dict(), allow_nan=False))
    assert found["blocks"]["encoder/layer2"] == {
        "parameters": 2, "size": 6, "nbytes": 24, "nan": 1, "infinite": 1, "tied": 0, "fixed": 1,
    }  # fmt: skip
    rows = {row["name"]: row for row in found["parameters"]}
    assert rows["head/weight"]["tied"] == "embed/weight"
    assert rows["head/weight"]["transposed"]
    assert rows["again"]["inside"] == ["again/weight", "again/mean"]
    assert rows["embed/weight"]["shape"] == [3, 2]
    assert rows["embed/weight"]["values"]["mean"] == 2.5
    assert sum(rows["embed/weight"]["values"]["bins"]) == 6
    assert rows["label"]["said"] == "'decay'"


SPECS = {
    "struct": jax.ShapeDtypeStruct((2, 3), "bfloat16"),
    "spec": pt.ParamSpec(jax.export.symbolic_shape("out, 4"), jnp.float32),
}


def test_specs_are_shown_without_values():
    view = show(SPECS)
    assert "spec    (out, 4) float32  4*out" in view.to_text(60)
    assert "struct  (2, 3) bfloat16       6" in view.to_text(60)
    assert "<title>" not in view.to_html()
    assert json.loads(json.dumps(view.to_dict()))["blocks"][""]["size"] == "4*out + 6"


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        ("decay", "str, 'decay'"),
        (0.25, "() float, 0.25"),
        (True, "() bool, True"),
        (jax.nn.relu, "jax.nn.relu"),
        (object(), "object, <object object>"),
        (jax.random.key(0), "() key<fry>"),
        (np.zeros((0, 3), "int8"), "(0, 3) int8"),
        (jnp.ones(2, "float8_e4m3fn"), "(2,) float8_e4m3fn"),
        (jnp.array([1 + 1j]), "(1,) complex64"),
        (np.full(2, np.nan), "(2,) float64, 2 NaN"),
        (np.array(["a"]), "(1,) str32"),
    ],
)
def test_any_leaf_is_shown_for_what_it_is(leaf, said):
    view = show({"a": leaf, "b": jnp.ones(2)})
    if leaf is jax.nn.relu:
        said = f"{type(leaf).__name__}, relu"
    line = view.to_text(80).splitlines()[2]
    assert line.startswith(f"a     {said}")
    assert "0x" not in view.to_html().split("<header>")[1].split("<script>")[0]


def test_a_function_is_shown_and_counts_as_no_parameter():
    view = show({"act": {"function": jax.nn.relu}, "b": jnp.ones(2)})
    assert view.headline() == "1 parameter, 2 elements, 8 B"
    assert view.blocks["act"].parameters == 0
    assert view.to_text(80).splitlines()[2] == "act         0 parameters"


def test_what_is_traced_or_was_given_away_has_no_values():
    @jax.jit
    def look(params):
        view = show(params)
        assert [row.values for row in view.rows] == [None]
        return params

    given = {"a": jnp.ones(2)}
    look(given)
    given["a"].delete()
    assert show(given).rows[0].values is None


def test_values_may_be_left_alone():
    assert [row.values for row in show({"a": jnp.ones(2)}, values=False).rows] == [None]


def test_counts_hold_whatever_the_depth():
    blocks = blocks_of(read_outline({"a": {"b": {"w": jnp.ones((2, 3))}, "c": pt.Alias("a/b")}}, None))
    assert {name: (each.parameters, each.size, each.tied) for name, each in blocks.items()} == {
        "": (1, 6, 1), "a": (1, 6, 1), "a/b": (1, 6, 0),
    }  # fmt: skip


# --- a tree in a page ---------------------------------------------------------------------------------------


def test_a_page_has_one_id_for_one_content():
    first, again = show(TREE).to_html(), show(TREE).to_html()
    assert first == again
    ids = [
        set(re.findall("paramtree-([0-9a-f]{12})-0", page))
        for page in (first, show(TREE, values=False).to_html())
    ]
    assert len(ids[0]) == 1
    assert ids[0] != ids[1]


def test_a_page_fetches_nothing():
    assert re.findall("https?:|src=|@import|url\\(", show(TREE).to_html() + table()) == []


def test_the_page_of_5000_parameters_is_small():
    random = np.random.default_rng(0)
    layer = {
        key: {"weight": random.normal(size=(16, 16)).astype("f4")} for key in ("query", "key", "value", "out")
    }
    tree = {"model": {f"layer{n}": {"attention": layer, "bias": np.float32([n, 1, 2])} for n in range(1000)}}
    view = show(tree)
    page = view.to_html()
    assert len(view.rows) == 5000
    assert page.count('<svg width="64"') == 5000
    assert len(page.encode()) < 3_000_000
    assert "<details open>" not in page  # a thousand lines would be seen


def test_blocks_fold_and_unfold(browser):
    script = """
        const all = seen();
        line("encoder").click();
        const folded = seen();
        line("encoder").click();
        const [open, fold] = $$(".paramtree-tools button");
        fold.click();
        const closed = seen();
        open.click();
        return [all, folded, closed, seen()];
    """
    all_, folded, closed, opened = browser(show(TREE).to_html(), script)
    layer = ["weight", "mean"]
    assert all_ == [
        "again", "count", "embed", "weight", "encoder", "layer2", *layer, "layer10", *layer, "head", "weight",
        "bias", "label",
    ]  # fmt: skip
    assert folded == [*all_[:5], *all_[-4:]]
    assert closed == ["again", "count", "embed", "encoder", "head", "label"]
    assert opened == all_


def test_a_tree_folds_and_leads_where_no_script_is_run(browser):
    page = re.sub("<script>.*</script>", "", show(TREE).to_html(), flags=re.DOTALL)
    script = """
        $$("summary").find((each) => $("b", each).textContent === "encoder").click();
        const links = $$("a").map((each) => $(each.getAttribute("href")).textContent.trim().split(" ")[0]);
        return [seen().length, links, $$("button, input").length];
    """
    assert browser(page, script) == [9, ["layer2", "weight"], 0]


SEARCH = """
    type(%s);
    const found = [seen(), $("output").textContent, $("input").getAttribute("aria-invalid")];
    return found;
"""


@pytest.mark.parametrize(
    ("pattern", "lines", "told"),
    [
        (".*bias", ["head", "bias"], "1 of 8 parameters"),
        ("embed/weight", ["embed", "weight"], "1 of 8 parameters"),
        (
            "encoder/.*/weight",
            ["encoder", "layer2", "weight", "layer10", "weight"],
            "2 of 8 parameters",
        ),
        ("(?P<block>embed|head)/weight", ["embed", "weight", "head", "weight"], "1 of 8 parameters, 1 tied"),
        ("(?i)LABEL\\Z", ["label"], "1 of 8 parameters"),
        ("again/mean", ["again"], "0 of 8 parameters, 1 tied"),
        ("count|label", ["count", "label"], "2 of 8 parameters"),
        ("no.such", [], "0 of 8 parameters"),
        ("encoder", [], "0 of 8 parameters. Did you mean encoder/.*"),
        ("weigh", [], "0 of 8 parameters. Did you mean .*weigh.*"),
    ],
)
def test_a_search_shows_whole_names_that_match(browser, pattern, lines, told):
    page = show(TREE).to_html()
    assert browser(page, SEARCH % json.dumps(pattern)) == [lines, told, None]


@pytest.mark.parametrize("pattern", ["*weight", "(", "[a"])
def test_a_bad_expression_is_marked_and_leaves_the_tree_as_it_is(browser, pattern):
    script = """
        const before = seen().length;
        type(%s);
        const invalid = () => $("input").getAttribute("aria-invalid");
        const bad = [seen().length === before, invalid(), $("output").textContent];
        type(".*bias");
        return [...bad, invalid(), seen()];
    """
    same, invalid, told, after, lines = browser(show(TREE).to_html(), script % json.dumps(pattern))
    assert (same, invalid, after, lines) == (True, "true", None, ["head", "bias"])
    assert told.startswith("not a regular expression: ")


def test_a_search_finds_what_python_finds(browser):
    odd = (
        "重み",
        "x😀y",
        "a]b",
        "a-b",
        "a.b",
        "a{b",
        "a{2}",
        "aa",
        "layer1",
        "layer12",
        "layer123",
        "a\\Ab",
        "٣",
    )
    tree = TREE | {name: {"w": np.zeros(2)} for name in odd}
    everywhere = [
        ".*",
        ".*weight",
        "e.*",
        "head/bias",
        ".*r2/.*",
        "(?s)l.*",
        "a|count",
        r"\A.*\d.*\Z",
        "[^/]+",
    ]
    counted = [
        r"layer\d{,2}/w",
        r"layer\d{2}/w",
        r"layer\d{2,}/w",
        "layer1{,}/w",
        "a{b/w",
        r"a\{2\}/w",
        "a{2}/w",
    ]
    classes = [
        r"\w+/w",
        r"[\w.]+/w",
        r"\W+/w",
        r".*[^\W\d_]/w",
        r".[\W_]./w",
        "[]ab]+/w",
        r"[\w-]+/w",
        r"\D+/w",
    ]
    signs = [
        ".{3}/w",
        r"x\U0001F600y/w",
        r"[x\U0001F600]+y/w",
        r"a\\Ab/w",
        r"a\-b/w",
        r"\d/w",
        "(?i)LAYER1/w",
    ]
    patterns = [*everywhere, *counted, *classes, *signs, r"(?P<x>a)(?P=x)/w"]
    script = """
        return %s.map((pattern) => { type(pattern); return parseInt($("output").textContent); });
    """
    counts = [len(pt.collect_params(tree, pattern, allow_empty=True)) for pattern in patterns]
    found = browser(show(tree).to_html(), script % json.dumps(patterns))
    assert dict(zip(patterns, found, strict=True)) == dict(zip(patterns, counts, strict=True))


def test_a_search_opens_what_is_folded_and_leaves_it_folded_in_the_end(browser):
    script = """
        line("encoder").click();
        const before = seen();
        type(".*mean");
        const during = seen();
        type("");
        return [before, during, seen(), $("output").textContent];
    """
    before, during, after, told = browser(show(TREE).to_html(), script)
    assert during == ["again", "encoder", "layer2", "mean", "layer10", "mean"]
    assert (after, told) == (before, "")


def test_an_offered_expression_is_searched_for(browser):
    script = """
        type("encoder");
        $("output button").click();
        return [$("input").value, $("output").textContent];
    """
    assert browser(show(TREE).to_html(), script) == ["encoder/.*", "4 of 8 parameters"]


FOLLOW = """
    const link = $$("a").find((each) => each.textContent === %s);
    link.click();
    const found = $(".paramtree-found");
    const box = found.getBoundingClientRect();
    return [
      $$(".paramtree-found").length, $("b", found).title, $("b", found).checkVisibility(),
      box.top >= 0 && box.bottom <= innerHeight, document.activeElement === found,
    ];
"""


@pytest.mark.parametrize(
    "before",
    [
        "",
        "$$('.paramtree-tools button')[1].click(); line('head').click();",  # all folded, but for the link
        "type('head/weight');",  # the source is not among the hits
        "$('.paramtree-view').style.paddingBottom = '3000px'; scrollTo(0, 3000);",  # far away
    ],
)
def test_a_tie_leads_to_its_source(browser, before):
    found = browser(show(TREE).to_html(), before + FOLLOW % '"embed/weight"')
    assert found == [1, "embed/weight", True, True, True]


def test_a_tied_block_leads_to_its_source_and_opens_it(browser):
    script = "$$('.paramtree-tools button')[1].click();" + FOLLOW % '"encoder/layer2"'
    script = script.replace("return [", "return [$('details', found.closest('li')).open, ")
    assert browser(show(TREE).to_html(), script) == [True, 1, "encoder/layer2", True, True, True]


def test_the_mark_on_a_source_fades(browser):
    script = "$('a').click(); await wait(5000); return $$('.paramtree-found').length"
    assert browser(show(TREE).to_html(), script) == 0


COPIES = "const copy = (name) => $('.paramtree-copy', line(name)).click();"


def test_a_copy_button_copies_the_name(browser):
    script = """
        const copied = [];
        const writeText = async (text) => copied.push(text);
        Object.defineProperty(navigator, "clipboard", { value: { writeText } });
        const before = seen();
        copy("encoder/layer2/mean");
        copy("encoder");
        copy("head/weight");
        const done = $$("[data-done]").length;
        await wait(3000);
        return [copied, done, $$("[data-done]").length, seen().length === before.length];
    """
    names = ["encoder/layer2/mean", "encoder", "head/weight"]
    assert browser(show(TREE).to_html(), COPIES + script) == [names, 3, 0, True]


@pytest.mark.parametrize(
    "clipboard", ["undefined", "{ writeText: async () => { throw new Error('denied'); } }"]
)
def test_a_copy_button_copies_where_there_is_no_clipboard(browser, clipboard):
    script = """
        Object.defineProperty(navigator, "clipboard", { value: %s });
        const copied = [];
        document.execCommand = (command) => copied.push([command, getSelection().toString()
          || document.activeElement.value.slice(document.activeElement.selectionStart)]);
        copy("encoder/layer2/mean");
        await wait(100);
        return [copied, $$("textarea").length];
    """
    found = browser(show(TREE).to_html(), COPIES + script % clipboard)
    assert found == [[["copy", "encoder/layer2/mean"]], 0]


def test_names_are_escaped_and_searched_and_copied_as_they_are(browser):
    names = [
        "<script>document.title='caught'<\\script>",
        "\"quoted' &amp;",
        "</b><img src=x onerror=alert(1)>",
    ]
    names += ["two\nlines", "right\u202eleft", "größe"]
    tree = {name: {"w": pt.Alias(f"{names[0]}/v")} for name in names[1:]} | {names[0]: {"v": jnp.ones(2)}}
    script = """
        const titles = $$(".paramtree-tree li > b").map((each) => each.title);
        type(%s);
        return [document.title, $$("img").length, titles, $("output").textContent];
    """
    title, images, titles, told = browser(show(tree).to_html(), script % json.dumps("(?s)two.lines/w"))
    paths = [row.name for row in show(tree).rows]
    assert (title, images, told) == ("page", 0, "0 of 1 parameters, 1 tied")
    assert sorted(titles) == sorted(paths)


def test_what_cannot_be_printed_is_shown_as_python_writes_it():
    page = show({"two\nlines": jnp.ones(2), "half \ud800": jnp.ones(2)}).to_html()
    assert '<b data-key="two\nlines">two\\nlines</b>' in page
    assert '<b data-key="half ?">half \\ud800</b>' in page
    page.encode()


def test_two_outputs_in_one_page_do_not_mix(browser):
    other = show({"other": {"weight": jnp.ones(3)}, "tied": pt.Alias("other/weight")}).to_html()
    script = """
        const [one, two, three] = $$(".paramtree-view");
        type("label", one);
        $("a", two).click();
        const found = $(".paramtree-found");
        return [seen(one), seen(two).length, seen(three), two.contains(found), $$(".paramtree-tools").length];
    """
    page = show(TREE).to_html()
    assert browser(page + page + other, script) == [["label"], 15, ["other", "weight", "tied"], True, 3]


def test_a_page_that_was_saved_works_on(browser):
    script = """
        type("label");
        $(".paramtree-view").outerHTML = $(".paramtree-view").outerHTML;
        const copy = document.createElement("script");
        copy.textContent = $("body > script").textContent;
        $("body > script").replaceWith(copy);
        const after = [seen().length, $$("input").length, $$(".paramtree-copy", line("label")).length];
        type(".*bias");
        return [...after, seen()];
    """
    assert browser(show(TREE).to_html(), script) == [15, 1, 1, ["head", "bias"]]


def test_faults_are_marked_where_they_are_and_on_the_blocks_above(browser):
    script = """
        return $$("em").filter((each) => each.closest("ul"))
          .map((each) => [$("b", each.closest("summary, li")).title, each.textContent]);
    """
    found = browser(show(TREE).to_html(), script)
    assert found[:3] == [
        ["encoder", "2 NaN, 2 Inf"],
        ["encoder/layer2", "1 NaN, 1 Inf"],
        ["encoder/layer2/weight", "1 NaN, 1 Inf"],
    ]


def test_one_value_is_said_and_several_are_drawn():
    page = show({"zeros": jnp.zeros(3), "one": jnp.float32(2.5), "nan": jnp.array([jnp.nan, 1.0])}).to_html()
    assert re.findall("<span>(all 0|2.5|others 1)</span>", page) == ["others 1", "2.5", "all 0"]
    page = show({"w": np.float32([0, 0, 1, 15])}).to_html()
    assert (
        '<svg width="64" height="16"><title>mean 4, std 6.36, from 0 to 15</title>'
        '<path d="M0 16V0h4V8h4V16h52V8h4V16"/></svg>'
    ) in page


@pytest.mark.parametrize("width", [800, 300])
def test_columns_line_up_at_any_depth_and_nothing_is_clipped(browser, width):
    script = f"$('.paramtree-view').style.width = '{width}px';"
    script += """
        const places = (selector) => new Set($$(selector).filter((each) => each.checkVisibility())
          .map((each) => Math.round(each.getBoundingClientRect().left)));
        const clipped = $$(".paramtree-tree :is(b, span, i)")
          .filter((each) => each.checkVisibility() && each.scrollWidth > each.clientWidth + 1);
        return [[1, 2, 3, 4].map((n) => places(`.paramtree-tree span:nth-of-type(${n})`).size),
          clipped.map((each) => each.textContent)];
    """
    assert browser(show(TREE).to_html(), script) == [[1, 1, 1, 1], []]
