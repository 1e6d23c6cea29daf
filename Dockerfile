# Both stages use the same Debian release: the program is linked against its libc.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The cache mounts keep compiled dependencies between builds. They are not part of the image, so the
# program is copied out. The target folder is locked: two concurrent builds would corrupt it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --bin allocation && \
    cp target/release/allocation /allocation

FROM debian:bookworm-slim
# Certificate authorities for sslmode=verify-full, amqps:// and smtps://.
RUN apt-get update && \
    apt-get install --no-install-recommends --yes ca-certificates && \
    rm -rf /var/lib/apt/lists/*
# Default settings and migrations are compiled in; other settings come from the environment.
COPY --from=build /allocation /usr/local/bin/allocation
# A numeric user id: Kubernetes can verify that it is not root (runAsNonRoot).
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/allocation"]
CMD ["run"]
