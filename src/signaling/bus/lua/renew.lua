-- ARGV 7 and 8: the other device's socket as known to this node, and the number of messages sent to
-- it.
local known, sent = ARGV[7], ARGV[8]
local own = lease(KEYS[1])
if not own then return {'absent'} end
if own.conn ~= conn then return {'taken'} end
redis.call('PEXPIRE', KEYS[1], ttl)
local other = lease(KEYS[2])
if other and other.conn ~= known then sent = '0' end
return answer('kept', reachable(other, {t = 'sync', seq = sent}))
