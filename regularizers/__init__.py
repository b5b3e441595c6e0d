"""What keeps weights small: weight decay, an L2 penalty, or lambdaOpt, which tunes strengths."""
