-- Stands before write and invalidate, whose arguments it follows with one more: the id of the record that the
-- caller has read, or '' if it saw none. Goes on only if that is what still stands there.
local found = redis.call('GETRANGE', KEYS[1], 0, 37)
if #found == 38 and string.sub(found, 1, 3) == 'tc\1'
    and redis.call('STRLEN', KEYS[1]) == 38 + struct.unpack('>I4', found, 27)
    and redis.call('PTTL', KEYS[1]) > 0 then
  found = string.sub(found, 31, 38)
else
  found = ''
end
if found ~= ARGV[#ARGV] then
  redis.call('DEL', KEYS[4])
  return {'LOST'}
end

