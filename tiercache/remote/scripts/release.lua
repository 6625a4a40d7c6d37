-- KEYS: l f s    ARGV: token, kind ('failed' or 'retry'), wire key, backoff ms, longest backoff ms, type, message
-- Gives the lease back without a value; a failure starts a cooldown that doubles with each one in a row.
redis.call('DEL', KEYS[3])
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then
  if ARGV[2] == 'failed' and redis.call('HGET', KEYS[2], 'by') == ARGV[1] then -- a repeat
    return {'OK', math.max(0, redis.call('PTTL', KEYS[2]) - 60000)}
  end
  return {'LOST', 0}
end

local pause = 0
local value = ''
if ARGV[2] == 'failed' then
  local count = redis.call('HINCRBY', KEYS[2], 'count', 1) -- a foreign type ends the script before it changed anything
  pause = math.floor(math.min(tonumber(ARGV[5]), tonumber(ARGV[4]) * 2 ^ math.min(count - 1, 40)))
  redis.call('HSET', KEYS[2], 'reason', 'failed', 'type', ARGV[6], 'message', ARGV[7], 'by', ARGV[1])
  redis.call('PEXPIRE', KEYS[2], pause + 60000)
  value = cmsgpack.pack({ARGV[6], ARGV[7], pause})
end
local fields = redis.call('HKEYS', KEYS[1])
redis.call('DEL', KEYS[1])
for _, field in ipairs(fields) do
  if string.sub(field, 1, 2) == 'w:' then
    redis.call('PUBLISH', 'tc1:in:' .. string.sub(field, 3),
      cmsgpack.pack({ARGV[3], string.sub(ARGV[1], 1, 8), ARGV[2], value}))
  end
end
return {'OK', pause}
