# PostgreSQL with sendkit: docker build --build-arg TAG=18-trixie -t postgres-sendkit .
ARG TAG=18-trixie
FROM postgres:$TAG AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
	gcc libc6-dev libcurl4-openssl-dev make pkg-config postgresql-server-dev-$PG_MAJOR
COPY . /src
RUN make -C /src with_llvm=no clean all && make -C /src with_llvm=no install DESTDIR=/sendkit

FROM postgres:$TAG
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libcurl4 && \
	rm -rf /var/lib/apt/lists/*
COPY --from=build /sendkit /
