-- ARGV 7: reason.
local own = lease(KEYS[1])
if not own or own.conn ~= conn then return 0 end
redis.call('DEL', KEYS[1])
local other = lease(KEYS[2])
if other and other.node ~= node then tell(other, {t = 'left', reason = ARGV[7]}) end
return 1
