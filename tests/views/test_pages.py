"""Pages about ops: one for each, from its class alone."""

import pytest

from convdsl.ops import registry
from convdsl.views.pages import op_list, op_page


@pytest.mark.parametrize("name", registry())
def test_every_op_has_a_page_with_its_attributes_and_examples(name):
    op = registry()[name]
    page = op_page(op)
    assert page.startswith(f"{name} (")
    for field in op.attribute_fields():
        assert field.name in page
    for sample in op.samples:
        assert sample.text in page


def test_the_list_has_every_op_in_one_line():
    lines = op_list().splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(registry())]] == sorted(registry())
    assert max(map(len, lines)) < 200
