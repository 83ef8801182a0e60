-- ARGV 7: device. Answers the epoch and the other device's lease.
local device = ARGV[7]
local own, other = lease(KEYS[1]), lease(KEYS[2])

-- The clock, but always more than before: it may have been set, and Redis may have lost its data.
local time = redis.call('TIME')
local epoch = tonumber(time[1]) * 1000000 + tonumber(time[2])
if own then epoch = math.max(epoch, tonumber(own.epoch) + 1) end
if other then epoch = math.max(epoch, tonumber(other.epoch) + 1) end
epoch = string.format('%.0f', epoch)

redis.call('HSET', KEYS[1], 'node', node, 'conn', conn, 'device', device, 'epoch', epoch)
redis.call('PEXPIRE', KEYS[1], ttl)
if own and own.node ~= node then tell(own, {t = 'kick'}) end
other = reachable(other, {t = 'joined', node = node, device = device, epoch = epoch})
return answer(epoch, other)
