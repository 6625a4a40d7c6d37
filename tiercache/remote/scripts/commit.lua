-- KEYS: v l f s    ARGV: token, attempt, record or '' (staged in s), hard ms, push (1 or 0), wire key,
--                        pause ms if the store is refused, channel to announce on or ''
-- Stores what the holder loaded and wakes the waiting processes. A repeat of it answers OK again.
local function tell(fields, kind, value)
  for _, field in ipairs(fields) do
    if string.sub(field, 1, 2) == 'w:' then
      redis.call('PUBLISH', 'tc1:in:' .. string.sub(field, 3),
        cmsgpack.pack({ARGV[6], string.sub(ARGV[1], 1, 8), kind, value}))
    end
  end
end

local id = string.sub(ARGV[1], 1, 8)
local head = redis.call('GETRANGE', KEYS[1], 0, 37)
local lease = redis.call('HMGET', KEYS[2], 't', 'n')
redis.call('HLEN', KEYS[3]) -- a foreign type under any of the three names has ended the script by now

if #head == 38 and string.sub(head, 1, 3) == 'tc\1'
    and redis.call('STRLEN', KEYS[1]) == 38 + struct.unpack('>I4', head, 27)
    and string.byte(head, 6) < 128 and string.sub(head, 31, 38) == id then
  redis.call('DEL', KEYS[4])
  return {'OK'}
end

local fields = redis.call('HKEYS', KEYS[2])
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then
  redis.call('DEL', KEYS[4])
  if lease[1] == ARGV[1] then -- an orphan of a delayed duplicate
    redis.call('DEL', KEYS[2])
    tell(fields, 'retry', '')
  end
  return {'REJECTED'}
end

local value = ''
if ARGV[5] == '1' then value = ARGV[3] end

if tonumber(ARGV[4]) > 0 then
  local stored
  if ARGV[3] ~= '' then
    stored = redis.pcall('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  else
    stored = redis.pcall('RENAME', KEYS[4], KEYS[1])
    if not stored.err then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
  end
  if stored.err then
    redis.call('DEL', KEYS[2], KEYS[4])
    if value ~= '' then
      tell(fields, 'ready', value)
    else
      redis.call('HSET', KEYS[3], 'reason', 'unstored', 'type', '', 'message', stored.err)
      redis.call('PEXPIRE', KEYS[3], tonumber(ARGV[7]) + 60000)
      tell(fields, 'retry', '')
    end
    return {'REFUSED', stored.err}
  end
else
  redis.call('DEL', KEYS[4])
end

redis.call('DEL', KEYS[2], KEYS[3])
tell(fields, 'ready', value)
if ARGV[8] ~= '' then redis.call('PUBLISH', ARGV[8], cmsgpack.pack({ARGV[6], id})) end
return {'OK'}
