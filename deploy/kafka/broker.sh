#!/bin/sh
# Starts the broker of docker-compose.yml. The first time it makes the storage, with the administrator's password: whoever sets
# the others' has to be let in first (deploy/kafka_access.py). Later changes of that password are made in Kafka.
set -eu
umask 077
secrets=${SECRETS:-/run/secrets}
config=${CONFIG:-/etc/haven}
scratch=${SCRATCH:-/tmp}
data=${DATA:-/var/lib/kafka/data}
libraries=${LIBRARIES:-/opt/kafka/libs}
java=${JAVA_HOME:+$JAVA_HOME/bin/}java

cat "$secrets/kafka_key" "$secrets/kafka_certificate" > "$scratch/broker.pem"
cat > "$scratch/health.properties" <<END
security.protocol=SSL
ssl.keystore.type=PEM
ssl.keystore.location=$scratch/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=$config/authority.pem
END
cat > "$scratch/log4j2.properties" <<'END'
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %m (%c)%n
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
END

if [ ! -f "$data/meta.properties" ]; then
    cluster=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=')
    # In a file, since every user of the machine can see with what arguments a process was started.
    cat > "$scratch/format.args" <<END
-Dlog4j2.configurationFile=$scratch/log4j2.properties
-cp
"$libraries/*"
kafka.tools.StorageTool
format
--standalone
--cluster-id=$cluster
--config=$config/server.properties
--add-scram
"SCRAM-SHA-512=[name=admin,password=$(cat "$secrets/admin_kafka_password")]"
END
    "$java" "@$scratch/format.args"
    rm "$scratch/format.args"
fi

exec "$java" ${HEAP:--Xms512m -Xmx512m} -XX:+ExitOnOutOfMemoryError "-Dlog4j2.configurationFile=$scratch/log4j2.properties" \
    -cp "$libraries/*" kafka.Kafka "$config/server.properties"
