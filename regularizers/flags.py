"""The flags of the regularizers. Loads without torch."""

# Of lambdaOpt, what can have strengths of its own, by its short form.
GRANULARITIES = {
    "g": "global",
    "d": "dimension",
    "dd": "double-dimension",
    "u": "user",
    "i": "item",
    "ui": "user+item",
    "du": "dimension+user",
    "di": "dimension+item",
    "dui": "dimension+user+item",
}
