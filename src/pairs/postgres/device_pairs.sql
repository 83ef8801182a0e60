-- The pairs of phones and Macs in PostgreSQL, as `orion-peer serve` reads them. For a Supabase
-- project or any other PostgreSQL server. It may be applied repeatedly, and in one transaction.
--
-- Permissions:
--   the table's owner, Supabase's service_role   everything
--   orion_signaling (for `serve --db`)           reads active pairs, only in the columns below
--   authenticated                                reads its own pairs
--   anon                                         nothing

CREATE TABLE IF NOT EXISTS public.device_pairs (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id       uuid        NOT NULL,
    mac_device_id text        NOT NULL CHECK (mac_device_id <> ''),
    ios_device_id text        NOT NULL CHECK (ios_device_id <> ''),
    status        text        NOT NULL DEFAULT 'pending'
                              CHECK (status IN ('pending', 'active', 'revoked')),
    created_at    timestamptz NOT NULL DEFAULT now(),
    revoked_at    timestamptz,
    CHECK (mac_device_id <> ios_device_id),
    CHECK ((status = 'revoked') = (revoked_at IS NOT NULL))
);

CREATE UNIQUE INDEX IF NOT EXISTS one_active_pair_of_two_devices
    ON public.device_pairs (mac_device_id, ios_device_id) WHERE status = 'active';

CREATE INDEX IF NOT EXISTS pairs_of_a_user ON public.device_pairs (user_id);

-- The role of `serve`. Give it a login: ALTER ROLE orion_signaling LOGIN PASSWORD '...';
-- Roles belong to the server, not to a database: a concurrent migration may create it first.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'orion_signaling') THEN
        CREATE ROLE orion_signaling NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

ALTER TABLE public.device_pairs ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON public.device_pairs FROM PUBLIC;

GRANT USAGE ON SCHEMA public TO orion_signaling;
GRANT SELECT (id, user_id, mac_device_id, ios_device_id, status, created_at, revoked_at)
    ON public.device_pairs TO orion_signaling;

DROP POLICY IF EXISTS signaling_reads_active_pairs ON public.device_pairs;
CREATE POLICY signaling_reads_active_pairs ON public.device_pairs
    FOR SELECT TO orion_signaling USING (status = 'active');

-- Supabase's roles, if they exist. Its default privileges grant them everything on a new table.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'anon') THEN
        REVOKE ALL ON public.device_pairs FROM anon;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'authenticated') THEN
        REVOKE ALL ON public.device_pairs FROM authenticated;
        GRANT SELECT ON public.device_pairs TO authenticated;
        DROP POLICY IF EXISTS users_read_their_own_pairs ON public.device_pairs;
        -- The value of auth.uid(), evaluated once per query instead of once per row.
        CREATE POLICY users_read_their_own_pairs ON public.device_pairs
            FOR SELECT TO authenticated
            USING (user_id = (SELECT (nullif(current_setting('request.jwt.claims', true), '')
                                      ::jsonb ->> 'sub')::uuid));
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'service_role') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.device_pairs TO service_role;
    END IF;
END
$$;

-- Notifies `serve` immediately that a pair has ended. The payload is only the id: a hint to check.
CREATE OR REPLACE FUNCTION public.device_pair_ended() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.status <> 'active' OR NEW.id <> OLD.id THEN
        PERFORM pg_catalog.pg_notify('orion_pair_ended', OLD.id::text);
    END IF;
    RETURN NULL;
END
$$;

DROP TRIGGER IF EXISTS device_pair_ended ON public.device_pairs;
CREATE TRIGGER device_pair_ended AFTER UPDATE OR DELETE ON public.device_pairs
    FOR EACH ROW WHEN (OLD.status = 'active') EXECUTE FUNCTION public.device_pair_ended();
