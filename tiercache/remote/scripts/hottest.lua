-- KEYS: hot, tally    ARGV: how many
-- What hot.lua has gathered, as it stands there, and the time. What is too long to be ours is empty.
local function ours(list, longest)
  for n, each in ipairs(list) do
    if each and #each > longest then list[n] = '' end
  end
  return list
end

return {redis.call('TIME'), ours(redis.call('HMGET', KEYS[2], 'at', 'began', 'half', 'all'), 64),
  ours(redis.call('ZREVRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES'), 200)}
