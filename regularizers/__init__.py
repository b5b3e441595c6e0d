"""What keeps weights small: weight decay, an L2 penalty, or strengths that tune themselves (lambdaOpt)."""
