-- ARGV: channel, number. Publishes the number and returns the time.
redis.call('PUBLISH', ARGV[1], ARGV[2])
return redis.call('TIME')
