-- One phone and one Mac that may meet. Times are seconds since 1970.
CREATE TABLE device_pairs (
    id            TEXT    PRIMARY KEY NOT NULL CHECK (id <> ''),
    user_id       TEXT    NOT NULL CHECK (user_id <> ''),
    mac_device_id TEXT    NOT NULL CHECK (mac_device_id <> ''),
    ios_device_id TEXT    NOT NULL CHECK (ios_device_id <> ''),
    status        TEXT    NOT NULL CHECK (status IN ('pending', 'active', 'revoked')),
    created_at    INTEGER NOT NULL,
    revoked_at    INTEGER,
    CHECK (mac_device_id <> ios_device_id),
    CHECK ((status = 'revoked') = (revoked_at IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX one_active_pair_of_two_devices
    ON device_pairs (mac_device_id, ios_device_id) WHERE status = 'active';

CREATE INDEX pairs_of_a_user ON device_pairs (user_id);
