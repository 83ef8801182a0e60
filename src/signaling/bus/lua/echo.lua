-- ARGV: channel, number. Sends the number, and answers the time.
redis.call('PUBLISH', ARGV[1], ARGV[2])
return redis.call('TIME')
