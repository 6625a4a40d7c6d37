"""The coin of probabilistic early expiry, as tier 1 tosses it."""


def due(double left, double theta, double draw):
    """True if a read with `left` seconds of freshness should refresh early.

    `theta` is beta times the load time in seconds, `draw` is uniform in (0, 1]: the answer is
    `left <= -theta * ln(draw)`, so its probability is exp(-left / theta). `theta` 0 switches it off.
    """
    return bool(falls(left, theta, draw))


def window(double theta):
    """Seconds before the end of freshness at which the coin is tossed for the first time: 21 theta."""
    return WINDOW * theta


def clamp(double delta, double ttl):
    """A load time as XFetch uses it: at least 1 ms, at most a quarter of the value's own ttl. Seconds."""
    return clamped(delta, ttl)
