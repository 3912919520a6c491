# An image with nothing but the extension, which CloudNativePG mounts beside
# PostgreSQL 18 or later:
#	docker build -f packaging/extension.Dockerfile --build-arg TAG=18-minimal-trixie .
# The cluster's manifest then says:
#	spec:
#	  postgresql:
#	    extensions:
#	      - name: sendkit
#	        image: { reference: registry.example/sendkit:1.0-18-trixie }
#	        ld_library_path: [system]
#	    parameters:
#	      sendkit.ca_file: /extensions/sendkit/share/ca-certificates.crt
ARG TAG=18-minimal-trixie
FROM ghcr.io/cloudnative-pg/postgresql:$TAG AS build
USER 0
RUN find /usr/lib -name '*.so*' >/libraries-of-the-server
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
	gcc libc6-dev libcurl4-openssl-dev make pkg-config postgresql-server-dev-$PG_MAJOR
COPY . /src
RUN make -C /src with_llvm=no clean all && make -C /src with_llvm=no install DESTDIR=/sendkit
RUN mkdir /system && ldd /src/sendkit.so | awk '$3 ~ "^/" { print $3 }' | \
	while read -r library; do \
		grep -q "/${library##*/}\$" /libraries-of-the-server || cp -L "$library" /system; \
	done

FROM scratch
COPY --from=build /system /system
COPY --from=build /sendkit/usr/lib/postgresql/*/lib /lib
COPY --from=build /sendkit/usr/share/postgresql/*/extension /share/extension
COPY --from=build /etc/ssl/certs/ca-certificates.crt /share/
COPY --from=build /src/LICENSE /licenses/
USER 65532:65532
