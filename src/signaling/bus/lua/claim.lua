-- ARGV 7 to 9: device; arrival time of the socket; slack: a lease whose epoch is at least this much
-- later makes the claim late. Times in µs.
-- Returns the epoch and the other device's lease, or `late`.
local device, since, slack = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local own, other = lease(KEYS[1]), lease(KEYS[2])

local epoch = since
if own then
  local latest = tonumber(own.epoch)
  if since + slack < latest then return {'late'} end
  epoch = math.max(since, latest + 1)
end
epoch = string.format('%.0f', epoch)

redis.call('HSET', KEYS[1], 'node', node, 'conn', conn, 'device', device, 'epoch', epoch)
redis.call('PEXPIRE', KEYS[1], ttl)
if own and own.node ~= node then tell(own, {t = 'kick'}) end
other = reachable(other, {t = 'joined', node = node, device = device, epoch = epoch})
return answer(epoch, other)
