-- KEYS: hot, tally    ARGV: how many
-- What hot.lua has gathered, as it stands there, and the time.
return {redis.call('TIME'), redis.call('HMGET', KEYS[2], 'at', 'began', 'half', 'all'),
  redis.call('ZREVRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES')}
