-- KEYS: hot, tally    ARGV: half-life in s, s since the caller began to count, its hits, then each key and its hits
-- Adds what one process gained, decayed until now. Scores and `all` are as of `at`: what comes later weighs more, so
-- that they are rewritten once in a half-life only.
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1001) -- a first write that frees memory: the rest runs on a full server too

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local ours = tonumber(ARGV[1])
local tally = redis.call('HMGET', KEYS[2], 'at', 'began', 'half', 'all')
local at, began, half, all = tonumber(tally[1]), tonumber(tally[2]), tonumber(tally[3]), tonumber(tally[4])
if not (at and began and half and all and half > 0 and at < now + half and began < now + half
    and all >= 0 and all < 1e300) then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1) -- there is nothing that could be added to
  at, began, half, all = now, now - ARGV[2], ours, 0
end

local weight = 2 ^ ((now - at) / half)
if weight >= 2 or half ~= ours then
  redis.call('ZUNIONSTORE', KEYS[1], 1, KEYS[1], 'WEIGHTS', 1 / weight)
  at, half, all, weight = now, ours, all / weight, 1
end

for n = 4, #ARGV, 2 do
  redis.call('ZINCRBY', KEYS[1], ARGV[n + 1] * weight, ARGV[n])
end
redis.call('HSET', KEYS[2], 'at', at, 'began', began, 'half', half, 'all', all + ARGV[3] * weight)
for _, name in ipairs(KEYS) do
  redis.call('PEXPIRE', name, math.ceil(math.max(60000, 10000 * half))) -- of a fleet that is gone nothing is left
end
return {'OK'}
