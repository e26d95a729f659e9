"""Operations the model calls, one function each, with backends behind it."""
