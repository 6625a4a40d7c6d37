-- KEYS: workers' sign of life, mark of the key, stream
-- ARGV: record id, ms in which a worker may take the job, about how many jobs the stream holds, wire key, job
-- Hands a refresh to the workers, once in the fleet for a record and its time.
if redis.call('PTTL', KEYS[1]) <= 0 then return {'NOBODY'} end

local left = redis.call('PTTL', KEYS[2])
if left > 0 and redis.call('GET', KEYS[2]) == ARGV[1] then return {'ASKED', left} end

if not redis.call('XADD', KEYS[3], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[3], '*', 'key', ARGV[4], 'job', ARGV[5]) then
  return {'NOBODY'} -- the workers make the stream, and let it end with them
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {'ASKED', tonumber(ARGV[2])}
