-- What is counted of each request. Of these rows the gateway may read sums alone; the rights are in rights.sql.
CREATE TABLE demand (
    request_id text PRIMARY KEY,
    quarter text NOT NULL,
    country text NOT NULL,
    region text NOT NULL,
    host text NOT NULL,
    waited text NOT NULL,
    missing text NOT NULL
);
COMMENT ON TABLE demand IS 'What is counted of each request (services/gateway/demand.py); the gateway may read sums of it alone.';

CREATE VIEW demand_sums AS
    SELECT quarter, country, region, host, waited, missing, count(*) AS requests FROM demand
    GROUP BY quarter, country, region, host, waited, missing;
