"""Random programs, well formed but not always meaningful, and mutations of real ones."""

from pathlib import Path

from hypothesis import strategies as st

NETWORKS = Path(__file__).parents[2] / "networks"

names = st.sampled_from(["x", "y", "width", "C1", "unit", "n_2", "relu", "half"])
numbers = st.sampled_from(["0", "1", "3", "64", "1_000", "0.5", "1e-5", "60M", "11.7M"])
sizes = st.sampled_from(["3x3", "1x5", "2x2x2"])
atoms = st.one_of(names, numbers, st.just("in"), st.just('"a b"'))


def _joined(parts, template):
    return st.tuples(*parts).map(lambda t: template.format(*t))


def _larger(inner):
    """Expressions around expressions; brackets where an operand needs them."""
    closed = st.one_of(atoms, inner.map("({})".format))
    operators = st.sampled_from(["+", "-", "*", "//", "%", "**", " + ", " - ", " * "])
    comparisons = st.sampled_from([" == ", " != ", " < ", " <= ", " and ", " or "])
    return st.one_of(
        inner.map("({})".format),
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(inner, min_size=2, max_size=3).map(lambda items: f"({', '.join(items)})"),
        _joined((closed, operators, closed), "{}{}{}"),
        _joined((closed, comparisons, closed), "({}{}{})"),
        closed.map("(-{})".format),
        closed.map("(not {})".format),
        _joined((closed, closed, closed), "({} if {} else {})"),
        _joined((names, inner), "{}[{}]"),
        _joined((names, st.sampled_from("chw")), "{}.{}"),
        _joined((names, inner, names, inner), "{}({}, {}={})"),
        _joined((names, names, inner), "(({}, {}) => {})"),
    )


expressions = st.recursive(atoms, _larger, max_leaves=6)
closed = st.one_of(numbers, names, expressions.map("({})".format))
windows = st.one_of(sizes, closed, _joined((closed, closed), "({0})x({1})"))

arguments = st.one_of(
    sizes,
    closed,
    st.just("-0.5"),
    _joined((closed, windows), "{}@{}"),
    st.one_of(sizes, closed).map("/{}".format),
    _joined((names, st.one_of(sizes, closed)), "{}={}"),
    _joined((numbers, numbers), "range={}..{}"),
)
applications = st.tuples(names, st.lists(arguments, max_size=3)).map(
    lambda t: " ".join([t[0], *t[1]])
)
steps = st.one_of(applications, expressions)
flows = st.lists(steps, min_size=1, max_size=12).map(" -> ".join)
claims = st.one_of(
    st.just(""),
    st.just("expect 6@28x28, params=156"),
    st.just("expect 10, macs ~ 1.5M"),
    st.just("expect rf=5x7"),
)
comments = st.sampled_from(["", "", "", "# note -> expect", "## documentation", "#"])
blanks = st.sampled_from(["", "", " ", "\n", "\n\n\n"])

simple = st.one_of(
    _joined((flows, claims), "{}  {}"),
    _joined((names, flows, claims), "{}: {} {}"),
    _joined((names, flows), "{} = {}"),
    _joined((names, names, flows), "{}, {} = {}"),
    flows.map("yield {}".format),
    _joined((names, flows), "output {}: {}"),
    _joined((names, st.lists(arguments, max_size=2).map(" ".join)), "input {}: 3@8x8 {}"),
    _joined((names, names, closed), "default {} {{ {}={} }}"),
)


def _body(statement):
    parts = st.lists(st.tuples(blanks, statement, comments), max_size=4)
    several = parts.map(
        lambda found: "{\n" + "".join(f"{b}{s} {c}\n" for b, s, c in found) + "}"
    )
    return st.one_of(several, simple.map("{{ {} }}".format))


def _nested(statement):
    body = _body(statement)
    return st.one_of(
        _joined((names, expressions, body), "for {} in {} {}"),
        _joined((expressions, body), "if {} {}"),
        _joined((expressions, body, body), "if {} {} else {}"),
        _joined((expressions, body, expressions, body), "if {} {} else if {} {}"),
    )


statements = st.recursive(simple, _nested, max_leaves=4)
parameters = st.sampled_from(["", "()", "(c)", "(c, s=1,)", "(unit: block, n: int[4], k = 2)"])
items = st.one_of(
    _joined((names, parameters, _body(statements)), "block {}{} {}"),
    _joined((names, parameters, _body(statements), claims), "net {}{} {} {}"),
    _joined((names, names, expressions, claims), "net {} = {}({}) {}"),
    _joined((names, closed), "{} = {}"),
    _joined((names, names, closed), "default {} {{\n{}={},\n}}"),
    st.just('import "other.cnn"'),
)
programs = st.lists(st.tuples(comments, blanks, items, comments), max_size=4).map(
    lambda found: "cnn 1\n" + "".join(f"{c}{b}\n{item} {d}\n" for c, b, item, d in found)
)

_PIECES = """( ) [ ] { } -> @ / = == .. 0 3x3 1e9 99999999999 in if else for net block yield expect " \"\"\" #
 ## ; relu conv concat max * ** - + => ~ : , .c not and x é \x00 input output default import half"""


@st.composite
def mutations(draw):
    """A bundled network with some words replaced, added, left out or exchanged."""
    import re

    files = sorted(NETWORKS.glob("*.cnn"))
    text = draw(st.sampled_from(files)).read_text(encoding="utf-8")
    words = re.findall(r"\s+|\w+|->|\.\.|\W", text)
    place = st.integers(0, len(words) - 1)
    piece = st.sampled_from([*_PIECES.split(), "\n", " "])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(place) % len(words)
        match draw(st.sampled_from(["replace", "add", "remove", "exchange"])):
            case "replace":
                words[at] = draw(piece)
            case "add":
                words.insert(at, draw(piece))
            case "remove":
                del words[at]
            case "exchange":
                other = draw(place) % len(words)
                words[at], words[other] = words[other], words[at]
    return "".join(words)
