"""Changes to the scripts that tests must notice, each by the test named with it."""

from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    file: str  # under tiercache/remote/scripts
    old: str  # stands there once
    new: str
    caught_by: str


PARITY = "tests/test_memory_redis.py"
SWAP = "tests/test_swap.py"

MUTANTS = [
    # acquire
    Mutant(
        "waiter registered after BUSY instead of in it",
        "acquire.lua",
        "if ARGV[3] ~= '' then redis.call('HSET', KEYS[2], 'w:' .. ARGV[3], '1') end",
        "",
        PARITY,
    ),
    Mutant(
        "a late duplicate takes the attempt back",
        "acquire.lua",
        "math.max(tonumber(redis.call('HGET', KEYS[2], 'n')), tonumber(ARGV[2]))",
        "tonumber(ARGV[2])",
        PARITY,
    ),
    Mutant("a repeated acquire is BUSY", "acquire.lua", "if holder == ARGV[1] then", "if false then", PARITY),
    Mutant(
        "a soft-invalid record is a HIT",
        "acquire.lua",
        "string.byte(head, 6) < 128 and string.sub(head, 31, 38) ~= ARGV[5]",
        "string.sub(head, 31, 38) ~= ARGV[5]",
        PARITY,
    ),
    Mutant("the known record is a HIT", "acquire.lua", " and string.sub(head, 31, 38) ~= ARGV[5]", "", PARITY),
    Mutant(
        "a record without TTL is a HIT",
        "acquire.lua",
        "\n    and redis.call('PTTL', KEYS[1]) > 0 then",
        " then",
        PARITY,
    ),
    Mutant(
        "a record of the wrong length is a HIT",
        "acquire.lua",
        "38 + struct.unpack('>I4', head, 27)",
        "redis.call('STRLEN', KEYS[1])",
        PARITY,
    ),
    Mutant("a lease without TTL keeps none", "acquire.lua", "if left < 0 then", "if false then", PARITY),
    Mutant("a lease is granted without TTL", "acquire.lua", "redis.call('PEXPIRE', KEYS[2], ARGV[4])", "", PARITY),
    Mutant(
        "the cooldown lasts as long as its count",
        "acquire.lua",
        "redis.call('PTTL', KEYS[3]) - 60000",
        "redis.call('PTTL', KEYS[3])",
        PARITY,
    ),
    Mutant("no first write that frees memory", "acquire.lua", "redis.call('DEL', KEYS[4]) --", "--", PARITY),
    # commit
    Mutant(
        "commit without the compare of the token",
        "commit.lua",
        "if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then",
        "if lease[2] ~= ARGV[2] then",
        PARITY,
    ),
    Mutant(
        "commit without the compare of the attempt",
        "commit.lua",
        "if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then",
        "if lease[1] ~= ARGV[1] then",
        PARITY,
    ),
    Mutant(
        "commit that is not idempotent",
        "commit.lua",
        "  redis.call('DEL', KEYS[4])\n  return {'OK'}",
        "  redis.call('DEL', KEYS[4])\n  return {'REJECTED'}",
        PARITY,
    ),
    Mutant(
        "a soft-invalid record passes for a repeat",
        "commit.lua",
        "string.byte(head, 6) < 128 and string.sub(head, 31, 38) == id",
        "string.sub(head, 31, 38) == id",
        PARITY,
    ),
    Mutant(
        "the orphan of a delayed duplicate stays",
        "commit.lua",
        "    redis.call('DEL', KEYS[2])\n    tell(fields, 'retry', '')",
        "    tell(fields, 'retry', '')",
        PARITY,
    ),
    Mutant(
        "a rejected commit leaves its staging",
        "commit.lua",
        "ARGV[2] then\n  redis.call('DEL', KEYS[4])",
        "ARGV[2] then",
        PARITY,
    ),
    Mutant("a refused store ends the script", "commit.lua", "redis.pcall('SET'", "redis.call('SET'", PARITY),
    Mutant(
        "a refused store keeps the lease",
        "commit.lua",
        "redis.call('DEL', KEYS[2], KEYS[4])",
        "redis.call('DEL', KEYS[4])",
        PARITY,
    ),
    Mutant(
        "a staged record keeps the lease's TTL",
        "commit.lua",
        "if not stored.err then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end",
        "",
        PARITY,
    ),
    Mutant(
        "a commit leaves the failure",
        "commit.lua",
        "redis.call('DEL', KEYS[2], KEYS[3])",
        "redis.call('DEL', KEYS[2])",
        PARITY,
    ),
    Mutant(
        "a commit leaves the lease",
        "commit.lua",
        "redis.call('DEL', KEYS[2], KEYS[3])",
        "redis.call('DEL', KEYS[3])",
        PARITY,
    ),
    Mutant("a commit wakes nobody", "commit.lua", "\ntell(fields, 'ready', value)\nif", "\nif", PARITY),
    Mutant("a commit is never announced", "commit.lua", "if ARGV[8] ~= ''", "if false", PARITY),
    Mutant("a foreign failure is written over", "commit.lua", "redis.call('HLEN', KEYS[3])", "", PARITY),
    # renew and release
    Mutant("anybody renews", "renew.lua", "if redis.call('HGET', KEYS[1], 't') ~= ARGV[1]", "if false", PARITY),
    Mutant("anybody releases", "release.lua", "if redis.call('HGET', KEYS[1], 't') ~= ARGV[1]", "if false", PARITY),
    Mutant("a repeated failure is LOST", "release.lua", "if ARGV[2] == 'failed' and", "if false and", PARITY),
    Mutant("the first pause is doubled", "release.lua", "math.min(count - 1, 40)", "math.min(count, 40)", PARITY),
    Mutant(
        "the pause has no bound",
        "release.lua",
        "math.min(tonumber(ARGV[5]), tonumber(ARGV[4]) * 2 ^ math.min(count - 1, 40))",
        "tonumber(ARGV[4]) * 2 ^ math.min(count - 1, 40)",
        PARITY,
    ),
    Mutant(
        "a release wakes nobody",
        "release.lua",
        "local fields = redis.call('HKEYS', KEYS[1])",
        "local fields = {}",
        PARITY,
    ),
    # invalidate
    Mutant(
        "invalidate that leaves the lease",
        "invalidate.lua",
        "  redis.call('DEL', KEYS[2])\n",
        "",
        PARITY,
    ),
    Mutant(
        "invalidate that leaves the failure",
        "invalidate.lua",
        "if is(KEYS[3], 'hash') then redis.call('DEL', KEYS[3]) end",
        "",
        PARITY,
    ),
    Mutant(
        "invalidate that removes what is foreign",
        "invalidate.lua",
        "redis.call('TYPE', key).ok == kind",
        "redis.call('TYPE', key).ok ~= 'none'",
        PARITY,
    ),
    Mutant("soft is as hard", "invalidate.lua", "if ARGV[1] == 'hard' then", "if true then", PARITY),
    Mutant("soft flips the flag back", "invalidate.lua", "string.byte(head, 6) < 128", "true", PARITY),
    Mutant("invalidate that wakes nobody", "invalidate.lua", "if holder then", "if false then", PARITY),
    Mutant("invalidate on a full server is refused", "invalidate.lua", "redis.call('DEL', KEYS[4]) --", "--", PARITY),
    # write
    Mutant(
        "write that leaves the lease",
        "write.lua",
        "redis.call('DEL', KEYS[2], KEYS[3])",
        "redis.call('DEL', KEYS[3])",
        PARITY,
    ),
    Mutant("write that does not name its record", "write.lua", "{ARGV[4], ARGV[6]}", "{ARGV[4], ''}", PARITY),
    Mutant("write over a foreign type", "write.lua", "redis.call('STRLEN', KEYS[1])", "", PARITY),
    Mutant(
        "a staged write keeps the staging's TTL", "write.lua", "  redis.call('PEXPIRE', KEYS[1], ARGV[2])\n", "", PARITY
    ),
    # only_if
    Mutant("a write on no condition", "only_if.lua", "if found ~= ARGV[#ARGV] then", "if false then", SWAP),
    Mutant(
        "a lost write on a condition leaves its staging",
        "only_if.lua",
        "  redis.call('DEL', KEYS[4])\n  return {'LOST'}",
        "  return {'LOST'}",
        SWAP,
    ),
    Mutant(
        "a record without TTL meets the condition",
        "only_if.lua",
        "\n    and redis.call('PTTL', KEYS[1]) > 0 then",
        " then",
        SWAP,
    ),
    Mutant(
        "a record of the wrong length meets the condition",
        "only_if.lua",
        "38 + struct.unpack('>I4', found, 27)",
        "redis.call('STRLEN', KEYS[1])",
        SWAP,
    ),
    Mutant(
        "a record of another format meets the condition",
        "only_if.lua",
        " and string.sub(found, 1, 3) == 'tc\\1'",
        "",
        SWAP,
    ),
]
