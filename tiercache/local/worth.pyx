"""What a record that could be opened is worth on this process's clock."""
from tiercache.local.record cimport Found, Record

from tiercache.local.outcome import answer


def worth(Found found not None, value, weight, policy, double sent, epoch, double now):
    """The outcome of a record, None where it may not be served, and what to fill tier 1 with.

    Lifetimes are anchored where its request was sent.
    """
    cdef Record record = found.record
    fresh, hard, delta = record.ends(sent, found.remaining)
    cdef double fresh_until = fresh, hard_until = hard
    fill = (
        value, fresh, hard, sent + <double>policy.local_ttl, delta, policy.beta, epoch, record.id, weight,
    )
    if record.soft_invalid or now >= hard_until or now >= fresh_until + <double>policy.stale_while_revalidate:
        return None, fill
    outcome = answer(value, "remote", hard_until - <double>record.hard_ms / 1000)
    if now >= fresh_until:
        outcome.stale = True
    return outcome, fill
