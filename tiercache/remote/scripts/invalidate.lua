-- KEYS: v l f s    ARGV: mode ('hard' or 'soft'), wire key, invalidation channel
-- From here on nothing that was loaded before can be committed, and every process drops its copy.
redis.call('DEL', KEYS[4]) -- nothing stands there: a first write that lets the rest run on a full server
local function is(key, kind) return redis.call('TYPE', key).ok == kind end -- what is foreign stays

local holder, fields = false, {}
if is(KEYS[2], 'hash') then
  holder = redis.call('HGET', KEYS[2], 't')
  fields = redis.call('HKEYS', KEYS[2])
  redis.call('DEL', KEYS[2])
end
if is(KEYS[3], 'hash') then redis.call('DEL', KEYS[3]) end
if is(KEYS[1], 'string') then
  local head = redis.call('GETRANGE', KEYS[1], 0, 37)
  if ARGV[1] == 'hard' then
    redis.call('DEL', KEYS[1])
  elseif #head == 38 and string.sub(head, 1, 3) == 'tc\1' and string.byte(head, 6) < 128 then
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
