# The Debian release is the same in both stages: the program is linked against its libc.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive the layer, so that a change of ours compiles our crate and not the dependencies; the program is copied
# out, for what stays in a cache is not in the image. One build at a time: two would spoil each other's target folder.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --bin allocation && \
    cp target/release/allocation /allocation

FROM debian:bookworm-slim
# The certificate authorities, for sslmode=verify-full, amqps:// and smtps://.
RUN apt-get update && \
    apt-get install --no-install-recommends --yes ca-certificates && \
    rm -rf /var/lib/apt/lists/*
# The settings' defaults and the migrations are compiled in; the rest comes from the environment.
COPY --from=build /allocation /usr/local/bin/allocation
# A number, so that a cluster which demands a user other than root can see that this is one.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/allocation"]
CMD ["run"]
