"""The report page: safe, complete, well-formed, the same every time, and drawn where the numbers say."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import charts, markup, sparks
from tamis.report import (
    EXAMPLES,
    Example,
    Histogram,
    Passage,
    ReportPage,
    Section,
    SurvivalCurve,
    Tile,
    Training,
    TrainingRow,
    render,
    write,
)

VOID = {"meta", "link", "br", "img", "hr", "input"}
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
ANY_RATE = st.one_of(st.none(), st.floats(0, 1), st.sampled_from([math.nan, math.inf, -math.inf]))
ANY_FLOAT = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
NASTY = "<script>alert('x')</script>\" onload=\"y & \x00\x07\x1b\x85 \ud800 \ufffe </style></section>"


class Reader(HTMLParser):
    """Reads a page as a browser would, and keeps tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text += data

    def all(self, tag, **wanted):
        """Attributes of the elements of a tag that have the attributes wanted."""
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in wanted.items())]


def full_page(text: str = "wool & silk") -> ReportPage:
    """A page with everything on it, and ``text`` wherever a text can stand."""
    edges = np.linspace(0.0, 1.0, 11)
    kinds = ("positive", "kept", "dropped")
    passage = Passage(text, 0.5, 3, text, text, rule=text, rival=text, rival_score=0.7, tag=text)
    long = Passage(text + " word" * 200, 0.4, 12_345)
    lines = Passage(text + "\n" * 9 + "end")
    rows = [TrainingRow(text, 0.31234, 0.25678, 0.0417, 0.0123, 0.0711), TrainingRow("ours", 0.3541, 0.2777)]
    return ReportPage(
        title=text,
        subtitle=[text],
        tiles=[Tile(text, 94_211, text), Tile("rate", text)],
        warnings=[text],
        audit=[text],
        curve=SurvivalCurve(
            [0.0, 0.1, 0.2], [0.3, 0.04, 0.0], [0.2, 0.02, 0.0], [0.4, 0.08, 0.03], [0.31, 0.05, 0.01], 0.1, 0.05, text
        ),
        funnel=[("candidates", 2000), (f"dropped: {text}", 500), ("kept", 1500), ("picked", 80)],
        histograms=[Histogram(text, edges, np.arange(10) + i, kind) for i, kind in enumerate(kinds)],
        marks=[(text, 0.62)],
        score=text,
        examples=[Example(text, [passage, lines], [passage, long], [passage], text, 0.55)],
        training=Training(rows, text, [text]),
        sections=[Section(text, [text], [text, "count"], [[text, 1234], ["b", 7]])],
        details={text: {text: text, "margin": 0.0812, "none": None}},
    )


def coordinates(html: str) -> list[float]:
    """Every number of the drawings: attributes, paths and view boxes."""
    found = []
    for tag, attrs in Reader(html).tags:
        if tag in ("svg", "line", "rect", "circle", "text", "path"):
            for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "dx", "dy"):
                if name in attrs:
                    found.append(float(attrs[name].removesuffix("%")))
            found += [
                float(v) for v in re.findall(r"[^\sMLZ]+", attrs.get("d", "").replace("M", " ").replace("L", " "))
            ]
    return found


def test_page_is_well_formed_and_holds_the_numbers():
    """A full page parses with balanced tags, unique ids and working links, and shows every number it was given."""
    page = Reader(render(full_page()))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"].removeprefix("#") for a in page.all("a")} == set(ids)
    for shown in ("94,211", "0.3123", "0.2568", "+0.0417", "0.0123 to 0.0711", "1,500", "75.0%", "rank 12,345",
                  "0.0812", "1,234", "chosen 0.1, survival 4%"):  # fmt: skip
        assert shown in page.text, shown


def test_page_stands_alone():
    """Nothing is fetched and no script runs: no addresses, no script, and a policy that forbids both."""
    html = render(full_page())
    page = Reader(html)
    for _, attrs in page.tags:
        for name, value in attrs.items():
            assert not (name in ("src", "srcset", "data", "action", "poster") or name.startswith("on")), (name, value)
            assert name not in ("href", "xlink:href") or value.startswith("#")
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {t for t, _ in page.tags}
    assert "url(" not in html and "@import" not in html and "://" not in html
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "script" not in policy


def test_nasty_text_stays_text():
    """Tags, quotes, controls and lone surrogates in any field neither change the structure nor spoil the encoding."""
    plain, nasty = Reader(render(full_page("wool"))), Reader(render(full_page(NASTY)))
    assert [t for t, _ in nasty.tags] == [t for t, _ in plain.tags]
    assert [set(a) for _, a in nasty.tags] == [set(a) for _, a in plain.tags]
    assert "<script>alert('x')</script>" in nasty.text and "\ufffd" in nasty.text
    html = render(full_page(NASTY))
    assert html.encode("utf-8").decode("utf-8") == html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe]", html)


@settings(max_examples=40, deadline=None)
@given(ANY_TEXT)
def test_any_text_comes_back(text):
    """What a browser reads back is the text, but for line ends and what cannot be printed."""
    escaped = markup.escape(text)
    escaped.encode("utf-8")
    back = Reader(f'<p title="{escaped}">{escaped}</p>')
    wanted = re.sub("\r\n?", "\n", text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    wanted = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]", "\ufffd", wanted)
    assert back.text == wanted
    assert back.tags == [("p", {"title": wanted})]


def test_empty_page_says_what_is_missing():
    """A page of a title alone is whole, and each missing part says so in a line."""
    page = Reader(render(ReportPage(title="t")))
    for sentence in ("Nothing was audited", "No survival curve was measured.", "No candidates were counted.",
                     "No scores were recorded.", "There are no examples to show."):  # fmt: skip
        assert sentence in page.text
    assert not page.all("section", id="training") and not page.all("section", id="details")


def test_empty_parts_do_not_crash():
    """Parts that are there but hold nothing draw nothing, and say so."""
    edges = [0.0, 0.5, 1.0]
    page = ReportPage(
        title="",
        curve=SurvivalCurve([0.1, 0.2], [None, math.nan], calibration=[None, None]),
        funnel=[("candidates", 0), ("kept", 0)],
        histograms=[Histogram("dropped", edges, [0, 0], "dropped")],
        examples=[Example("q"), Example("", kept=[Passage("", math.nan, rule="margin", rival_score=math.inf)])],
        training=Training([]),
        sections=[Section("s")],
        details={"Plan": {}},
    )
    text = Reader(render(page)).text
    for sentence in ("No survival rate was measured.", "There are no scores to draw.", "No model was compared.",
                     "Nothing was recorded.", "Nothing was dropped for this query.", "No positive was given.",
                     "(empty text)"):  # fmt: skip
        assert sentence in text
    assert "nan" not in text and "inf" not in text


def test_same_page_same_bytes():
    """Rendering twice gives the same text."""
    assert render(full_page()) == render(full_page())


def test_one_empty_group_is_left_out_of_the_picture_and_kept_in_the_legend():
    """A group without scores stands in the legend with a 0, and the others are drawn."""
    edges = [0.0, 0.5, 1.0]
    groups = [Histogram("positives", edges, [1, 3], "positive"), Histogram("dropped", edges, [0, 0], "dropped")]
    page = Reader(charts.histograms(groups))
    assert "dropped (0)" in page.text and "positives (4)" in page.text
    assert [a["class"] for a in page.all("path")] == ["area positive"]


def test_histogram_heights_are_shares_of_the_group():
    """Groups of different size and the same shape are drawn alike; a bin of twice the share is twice as high."""
    edges = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    groups = [Histogram("a", edges, [1, 2, 4, 1], "positive"), Histogram("b", edges, [100, 200, 400, 100], "kept")]
    first, second = (a["d"] for a in Reader(charts.histograms(groups)).all("path"))
    assert first == second
    points = [tuple(map(float, p.split())) for p in first[1:].split("L")]
    assert [x for x, _ in points] == [0, 0, 25, 25, 50, 50, 75, 75, 100, 100]
    heights = [100 - y for _, y in points[1:-1:2]]
    assert heights == pytest.approx(np.array([1, 2, 4, 1]) / 4 * 100 / 1.08, abs=0.02)


def test_histogram_is_cut_to_what_it_holds():
    """Empty bins at the ends are not drawn, and a mark outside the range is left out."""
    group = Histogram("a", np.linspace(-1, 1, 21), [0] * 10 + [5, 0, 5] + [0] * 7, "kept")
    page = Reader(charts.histograms([group], [("in", 0.2), ("out", -0.5), ("none", math.inf)]))
    (mark,) = page.all("line", **{"class": "mark"})
    assert float(mark["x1"].rstrip("%")) == pytest.approx(100 * 0.2 / 0.3, abs=0.01)


def test_funnel_bars_lie_where_candidates_were_cut_off():
    """A dropped part ends where the part before it began; what is kept starts at the left."""
    steps = [("candidates", 200), ("dropped: copies", 20), ("dropped: margin", 50), ("kept", 130), ("picked", 40)]
    page = Reader(sparks.funnel(steps))
    bars = [(float(a["x"].rstrip("%")), float(a["width"].rstrip("%"))) for a in page.all("rect")]
    assert bars == [(0, 100), (90, 10), (65, 25), (0, 65), (0, 20)]
    assert [a["class"] for a in page.all("rect")] == ["whole", "dropped", "dropped", "kept", "kept"]
    assert "65.0%" in page.text and "dropped copies" in page.text


def test_survival_dot_stands_on_the_curve():
    """The chosen margin stands at its place and verified rate, on a square-root scale, and the bound has its line."""
    curve = SurvivalCurve([0.0, 0.1, 0.4], [0.64, 0.16, 0.0], chosen=0.1, max_survival=0.04)
    page = Reader(charts.survival(curve))
    (dot,) = page.all("circle")
    top = 0.64 * 1.05
    assert float(dot["cx"].rstrip("%")) == pytest.approx(25)
    assert float(dot["cy"].rstrip("%")) == pytest.approx(100 - 100 * math.sqrt(0.16 / top), abs=0.01)
    (bound,) = page.all("line", **{"class": "bound"})
    assert float(bound["y1"].rstrip("%")) == pytest.approx(100 - 100 * math.sqrt(0.04 / top), abs=0.01)
    assert "chosen 0.1, survival 16%" in page.text and "at most 4%" in page.text


def test_survival_has_a_table_and_a_band_only_where_there_is_one():
    """The numbers stand in a table; without an interval there is no band and the legend does not promise one."""
    bare = Reader(charts.survival(SurvivalCurve([0.0, 0.1], [0.5, 0.25])))
    assert "50.0%" in bare.text and "25.0%" in bare.text and "interval" not in bare.text
    assert [a["class"] for a in bare.all("path")] == ["line verification"]
    banded = Reader(charts.survival(SurvivalCurve([0.0, 0.1], [0.5, 0.25], [0.4, 0.2], [0.6, 0.3])))
    assert [a["class"] for a in banded.all("path")] == ["band", "line verification"]


def test_survival_gives_no_rate_for_a_margin_off_the_curve():
    """A chosen margin far from every measured one is marked without a rate."""
    page = Reader(charts.survival(SurvivalCurve([0.0, 0.1], [0.5, 0.25], chosen=0.7)))
    assert "chosen 0.7" in page.text and "survival 2" not in page.text and page.all("circle") == []


def test_gap_in_a_curve_breaks_the_line():
    """A missing rate lifts the pen."""
    page = Reader(charts.survival(SurvivalCurve([0, 1, 2, 3, 4], [0.5, 0.4, None, 0.2, 0.1])))
    (line,) = page.all("path", **{"class": "line verification"})
    assert line["d"].count("M") == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ANY_FLOAT, ANY_RATE, ANY_RATE, ANY_RATE, ANY_RATE), max_size=12), ANY_FLOAT, ANY_FLOAT)
def test_survival_coordinates_are_finite(rows, chosen, bound):
    """Whatever the numbers, NaN and infinity among them, every coordinate is finite and inside the picture."""
    columns = [list(c) for c in zip(*rows, strict=True)] or [[], [], [], [], []]
    html = charts.survival(SurvivalCurve(*columns, chosen=chosen, max_survival=bound))
    assert all(math.isfinite(v) for v in coordinates(html))
    assert not re.search(r"\b(nan|inf)\b", html)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY_FLOAT, max_size=8), ANY_FLOAT, st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.data())
def test_small_pictures_have_finite_coordinates(scores, ceiling, start, step, data):
    """Strips, whiskers and histograms keep to finite coordinates too."""
    scale = charts.Scale.around([*scores, ceiling], room=0.03)
    kinds = ("positive", "kept", "dropped")
    html = sparks.strip([(kinds[i % 3], v) for i, v in enumerate(scores)], scale, ceiling)
    html += sparks.whisker(*[math.nan if v is None else v for v in (*scores, 0.1, 0.2, 0.3)[:3]], scale)
    counts = data.draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=9))
    edges = start + step * np.arange(len(counts) + 1)
    if (np.diff(edges) > 0).all():
        html += charts.histograms([Histogram("h", edges, counts, "kept")], [("m", ceiling or 0.0)])
    assert all(math.isfinite(v) for v in coordinates(html))


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_ticks_lie_in_the_scale(a, b):
    """There are a few ticks, increasing, evenly spaced, and inside the scale."""
    scale = charts.Scale.around([a, b])
    ticks = scale.ticks()
    span = scale.high - scale.low
    assert 2 <= len(ticks) <= 9
    assert all(scale.low - 1e-6 * span <= t <= scale.high + 1e-6 * span for t in ticks)
    assert np.diff(ticks) == pytest.approx(np.full(len(ticks) - 1, ticks[1] - ticks[0]), rel=1e-3)


def test_histogram_complains_in_one_line():
    """Edges and counts that do not fit are named."""
    cases = [
        (Histogram("a", [0, 1, 2], [1], "kept"), "one more than counts: 1 counts, 3 edges"),
        (Histogram("a", [0, 2, 1], [1, 1], "kept"), "edges of 'a' must increase"),
        (Histogram("a", [0, math.nan], [1], "kept"), "edges must be finite"),
        (Histogram("a", [0, 1], [-1], "kept"), "counts of 'a' must not be negative"),
        (Histogram("a", [0, 1], [1], "rest"), "kind must be one of"),
    ]
    for histogram, message in cases:
        with pytest.raises(ValueError, match=message):
            charts.histograms([histogram])
    with pytest.raises(ValueError, match="one entry per row of margin: 2 rows, 1 verification"):
        charts.survival(SurvivalCurve([0, 1], [0.5]))
    with pytest.raises(ValueError, match="survival rate must lie between 0 and 1: got 1.5"):
        charts.survival(SurvivalCurve([0], [1.5]))


def test_long_texts_are_clipped_with_the_whole_behind_a_click():
    """A long text shows its beginning, ends at a word, and stands whole in the details; a short one stands as it is."""
    text = "word " * 200
    page = Reader(markup.clipped(text))
    assert page.all("details") and page.text.count("word") > 200
    assert "word\u2026" in page.text and "whole text, 1,000 characters" in page.text
    assert not Reader(markup.clipped("one\ntwo")).all("details")
    assert "The first 20,000 characters" in markup.clipped("x" * 20_001)


def test_rival_is_named():
    """A dropped candidate says its rule and what it was compared with; a known positive is not printed again."""
    positive = Passage("the answer", 0.8)
    dropped = [
        Passage("near", 0.79, rule="margin", rival="the answer", rival_score=0.8),
        Passage("copy", 0.5, rule="repeated text", rival="another passage", rival_score=0.6),
        Passage("odd", 0.5, rule="rank window"),
    ]
    text = Reader(render(ReportPage(title="t", examples=[Example("q", [positive], [], dropped)]))).text
    assert "rule margin, against the known positive (0.800)" in text
    assert "rule repeated text, against a passage scored 0.600:another passage" in text
    assert text.count("the answer") == 1


def test_examples_are_limited_and_say_so():
    """More examples than fit are cut off, with a line that says how many there were."""
    page = Reader(render(ReportPage(title="t", examples=[Example(f"q{i}") for i in range(EXAMPLES + 5)])))
    assert len(page.all("article")) == EXAMPLES
    assert f"The first {EXAMPLES} of {EXAMPLES + 5} are shown." in page.text


def test_training_difference_that_covers_zero_looks_undecided():
    """An interval that holds zero is drawn hollow, one that does not is drawn full."""
    rows = [TrainingRow("a", 0.3, 0.3, 0.01, -0.01, 0.03), TrainingRow("b", 0.2, 0.2, 0.1, 0.05, 0.15)]
    page = Reader(render(ReportPage(title="t", training=Training(rows))))
    styles = [a["class"] for a in page.all("svg") if a.get("class", "").startswith("whisker")]
    assert styles == ["whisker unclear", "whisker clear"]


def test_write_is_atomic(tmp_path, monkeypatch):
    """A file appears whole; when the last step fails the old one is still there."""
    path = tmp_path / "report.html"
    write(path, render(full_page(NASTY)))
    assert "\ufffd" in path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    before = path.read_bytes()

    def full(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write(path, "new")
    assert path.read_bytes() == before


def test_write_names_the_wrong_place(tmp_path):
    """A folder that is not there, or a folder for a file, is answered in one line."""
    with pytest.raises(ValueError, match="is not a folder: make it first"):
        write(tmp_path / "no" / "report.html", "x")
    with pytest.raises(ValueError, match="is a folder: name a file"):
        write(tmp_path, "x")


def test_colours_can_be_read():
    """Text and marks have a contrast of 4.5 to 1 with their ground, in light and in dark (WCAG 2.1, 1.4.3)."""
    style = resources.files("tamis").joinpath("report.css").read_text(encoding="utf-8")

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    themes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(themes) == 2 and set(themes[0]) == set(themes[1])
    for theme in themes:
        pairs = [(front, back) for front in ("ink", "soft") for back in ("ground", "raised")]
        pairs += [(front, "ground") for front in ("positive", "kept", "dropped", "mark")] + [
            ("warn-ink", "warn-ground")
        ]
        for front, back in pairs:
            high, low = sorted((luminance(theme[front]), luminance(theme[back])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)
    used = set(re.findall(r"var\(--([a-z-]+)\)", style))
    assert used == set(themes[0])
