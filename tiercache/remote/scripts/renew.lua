-- KEYS: l    ARGV: token, lease ms
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return {'LOST'} end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {'OK'}
