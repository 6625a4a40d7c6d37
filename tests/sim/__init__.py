"""Many processes of a fleet in one thread, in virtual time: the shipped code over a simulated world.

Simulated are the bytes on the wire, the clock, chance, and the choice of who runs next. Flow, leader, table, the
asyncio port, the inbox's ear, the timer's turns, breaker, calls, client, codec and process are the shipped ones; the
server is `tiercache.testing.MemoryRedis`, which tests hold against the real scripts.

    loop.py     an event loop whose clock is virtual and whose lanes (threads, loops, the network) run in seeded order
    network.py  connections and inboxes that are slow, cut, refused, half-open; replies that get lost
    member.py   one process: a Cache, its timer, its calls; it can pause, crash and fork
    truth.py    what really happened, and the checks S1 to S13 while it happens
    leases.py   who holds which lease: S1, S6 and S11
    history.py  what a seed stands for: policies, calls and faults as plain data
    acts.py     what can happen: calls, writes, faults
    run.py      runs a history, checks L1 to L6 at its end, shrinks a failing one

`python tests/simulate.py --help` runs seeds; a failing one is replayed with `--seed N`.
"""
