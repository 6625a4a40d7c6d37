-- KEYS: v l f s    ARGV: token, attempt, inbox or '', lease ms, known id or ''
-- One atomic election: HIT, BUSY, COOLDOWN or GRANTED. A BUSY inbox is registered in the same step.
redis.call('DEL', KEYS[4]) -- a first write that frees memory: the rest then runs on a full server too

local holder = redis.call('HGET', KEYS[2], 't')
if holder == ARGV[1] then
  local attempt = math.max(tonumber(redis.call('HGET', KEYS[2], 'n')), tonumber(ARGV[2]))
  redis.call('HSET', KEYS[2], 'n', attempt)
  return {'GRANTED', attempt}
end

local head = redis.call('GETRANGE', KEYS[1], 0, 37)
if #head == 38 and string.sub(head, 1, 3) == 'tc\1'
    and redis.call('STRLEN', KEYS[1]) == 38 + struct.unpack('>I4', head, 27)
    and string.byte(head, 6) < 128 and string.sub(head, 31, 38) ~= ARGV[5]
    and redis.call('PTTL', KEYS[1]) > 0 then
  return {'HIT'}
end

if holder then
  if ARGV[3] ~= '' then redis.call('HSET', KEYS[2], 'w:' .. ARGV[3], '1') end
  local left = redis.call('PTTL', KEYS[2])
  if left < 0 then
    left = tonumber(ARGV[4])
    redis.call('PEXPIRE', KEYS[2], left)
  end
  return {'BUSY', left, string.sub(holder, 1, 8)}
end

local failure = redis.call('HMGET', KEYS[3], 'reason', 'type', 'message') -- a foreign type stops the election
local left = redis.call('PTTL', KEYS[3]) - 60000
if left > 0 then
  return {'COOLDOWN', left, failure[1] or '', failure[2] or '', failure[3] or ''}
end

redis.call('HSET', KEYS[2], 't', ARGV[1], 'n', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return {'GRANTED', tonumber(ARGV[2])}
