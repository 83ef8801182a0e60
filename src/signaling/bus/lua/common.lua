-- A lease is a hash of node, conn, device and epoch.
-- KEYS: the device's own lease, the other device's lease.
-- ARGV: node, prefix of the nodes' channels, pair, role, conn, lifetime of a lease in ms; the
-- remaining arguments depend on the script.
local node, channels, pair, role, conn, ttl = unpack(ARGV, 1, 6)

local function lease(key)
  local field = redis.call('HMGET', key, 'node', 'conn', 'device', 'epoch')
  if not field[1] then return nil end
  return {node = field[1], conn = field[2], device = field[3], epoch = field[4]}
end

-- Sends a message about this device to the node of a lease; returns the number of receivers.
local function tell(to, say)
  say.pair, say.role, say.from, say.to = pair, role, conn, to.conn
  return redis.call('PUBLISH', channels .. to.node, cjson.encode(say))
end

-- The other device's lease if it is on this node or its node receives `say`. A node that does not
-- receive it is gone, and its lease is deleted.
local function reachable(other, say)
  if not other or other.node == node then return other end
  if tell(other, say) > 0 then return other end
  redis.call('DEL', KEYS[2])
  return nil
end

local function answer(first, other)
  if not other then return {first} end
  return {first, other.node, other.conn, other.device, other.epoch}
end
