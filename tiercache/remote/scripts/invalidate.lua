-- KEYS: v l f    ARGV: mode ('hard' or 'soft'), wire key, invalidation channel
-- From here on nothing that was loaded before can be committed, and every process drops its copy.
local holder = redis.call('HGET', KEYS[2], 't')
local fields = redis.call('HKEYS', KEYS[2])
redis.call('DEL', KEYS[2], KEYS[3])

if ARGV[1] == 'hard' then
  if redis.call('TYPE', KEYS[1]).ok == 'string' then redis.call('DEL', KEYS[1]) end
else
  local head = redis.call('GETRANGE', KEYS[1], 0, 37)
  if #head == 38 and string.sub(head, 1, 3) == 'tc\1' and string.byte(head, 6) < 128 then
    redis.call('SETRANGE', KEYS[1], 5, string.char(string.byte(head, 6) + 128))
  end
end

if holder then
  for _, field in ipairs(fields) do
    if string.sub(field, 1, 2) == 'w:' then
      redis.call('PUBLISH', 'tc1:in:' .. string.sub(field, 3),
        cmsgpack.pack({ARGV[2], string.sub(holder, 1, 8), 'retry', ''}))
    end
  end
end
redis.call('PUBLISH', ARGV[3], cmsgpack.pack({ARGV[2], ''}))
return {'OK'}
