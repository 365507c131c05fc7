"""How good each M_t is, with intervals: a place to grow."""
