"""Pieces of networks that join and cut feature maps, with channels in whole blocks of eight."""

PIECES = {
    "fire": """
  s = in -> conv 8@1x1 -> relu
  wide = s -> conv 16@1x1 -> relu
  deep = s -> conv 16@3x3 pad=1 -> relu
  concat(wide, deep) -> conv 8@3x3 /2""",
    "inception": """
  b1 = in -> conv 8@1x1 -> relu
  b2 = in -> conv 8@1x1 -> relu -> conv 16@3x3 pad=1 -> relu
  b3 = in -> conv 8@1x1 -> relu -> conv 8@5x5 pad=2 -> relu
  b4 = in -> max 3x3 /1 pad=1 -> conv 8@1x1 -> relu
  concat(b1, b2, b3, b4) -> avg 3x3 /2 -> conv 8@1x1""",
    "dense": """
  a = conv 16@3x3 pad=1
  b = a -> bn -> relu -> conv 16@1x1 -> bn -> relu -> conv 8@3x3 pad=1
  c = concat(a, b)
  d = c -> bn -> relu -> conv 16@1x1 -> bn -> relu -> conv 8@3x3 pad=1
  concat(c, d) -> bn -> relu -> conv 8@1x1 -> avg 2x2""",
    "u": """
  skip = in -> conv 8@3x3 -> relu
  wide = skip -> max 2 -> conv 16@3x3 pad=1 -> relu -> deconv 8@2x2 /2
  concat((skip -> crop to=(wide.h)x(wide.w)), wide) -> conv 8@3x3 -> tanh""",
    "pools": """
  a = concat((in -> max 2x2), (in -> avg 2x2), (in -> conv 8@2x2 /2))
  b = a -> slice 8..24 -> conv 16@3x3 pad=1 groups=16
  concat(a, b, (b -> avg 3x3 /1 pad=1)) -> conv 72@3x3 /2 groups=72 -> conv 8@1x1""",
    "sums": """
  a = conv 16@3x3 pad=1
  b = add(a, (a -> conv 16@3x3 pad=1)) -> relu
  c = concat(a, b)
  d = add(c, (c -> conv 32@1x1))
  concat((d -> slice 0..16 -> tanh), (d -> slice 16..32), b) -> conv 8@3x3 pad=1 -> avg global""",
}
"""Each takes a map of 16 channels. None needs a copy but where two joins want the same map."""


def network(piece, size):
    """The text of a network with that piece, for images of that size."""
    body = PIECES[piece].replace("in ->", "first ->").replace("= conv", "= first -> conv")
    return f"net T {{\n  input 3@{size}\n  first = conv 16@1x1 -> tanh{body}\n  dense 5\n}}"
