-- KEYS: v l f s    ARGV: record or '' (staged in s), hard ms, push (1 or 0), wire key, invalidation channel, id
-- A value from outside any load: replaces the record, ends the running load's right to commit, tells everybody.
local holder = redis.call('HGET', KEYS[2], 't')
local fields = redis.call('HKEYS', KEYS[2])
redis.call('HLEN', KEYS[3])
redis.call('STRLEN', KEYS[1]) -- a foreign type under any of the names has ended the script by now

if ARGV[1] ~= '' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
else
  redis.call('RENAME', KEYS[4], KEYS[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end

redis.call('DEL', KEYS[2], KEYS[3])
local value = ''
if ARGV[3] == '1' then value = ARGV[1] end
if holder then
  for _, field in ipairs(fields) do
    if string.sub(field, 1, 2) == 'w:' then
      redis.call('PUBLISH', 'tc1:in:' .. string.sub(field, 3),
        cmsgpack.pack({ARGV[4], string.sub(holder, 1, 8), 'ready', value}))
    end
  end
end
redis.call('PUBLISH', ARGV[5], cmsgpack.pack({ARGV[4], ARGV[6]}))
return {'OK'}
