// Carries out commands with the npm package centrifuge, in Node and in a page, and tells events.
// tests/live/sdks.py has the list of both.

"use strict";

// `library` is the package, `settings` what its clients need here, `tell` takes each event.
function makeDriver(library, encoding, settings, tell) {
  const clients = new Map();
  const isBinary = encoding === "protobuf";
  const encode = (data) =>
    isBinary ? new TextEncoder().encode(JSON.stringify(data)) : data;
  const decode = (data) => {
    const isEmpty = data == null || (isBinary && !data.length);
    if (isEmpty) return null;
    return isBinary ? JSON.parse(new TextDecoder().decode(data)) : data;
  };
  const position = (at) => (at ? { offset: Number(at.offset), epoch: at.epoch } : null);
  const published = (publication) => ({
    data: decode(publication.data),
    user: publication.info?.user ?? null,
    offset: Number(publication.offset ?? 0),
    tags: publication.tags ?? {},
  });
  const member = (info) => ({ user: info.user, client: info.client });

  // What gives a new token when the library asks for one; without it the library gives up.
  const renewal = (as, channel, refresh) => {
    if (!refresh) return null;
    return async () => {
      tell({ as, event: "renewal", channel });
      return refresh;
    };
  };

  function connect({ as, url, token, refresh, data }) {
    const client = new library.Centrifuge(url, {
      ...settings,
      token: token ?? "",
      getToken: renewal(as, null, refresh),
      data: data == null ? null : encode(data),
      minReconnectDelay: 100,
      maxReconnectDelay: 500,
    });
    clients.set(as, client);
    client
      .on("connecting", ({ code, reason }) => tell({ as, event: "connecting", code, reason }))
      .on("connected", (context) =>
        tell({ as, event: "connected", client: context.client, data: decode(context.data) }),
      )
      .on("disconnected", ({ code, reason }) =>
        tell({ as, event: "disconnected", code, reason }),
      )
      .on("error", ({ error }) => tell({ as, event: "error", ...failure(error) }));
    client.connect();
  }

  function subscribe(command) {
    const { as, channel, token, refresh, recoverable, joinLeave } = command;
    const client = clients.get(as);
    let subscription = client.getSubscription(channel);
    if (!subscription) {
      subscription = client.newSubscription(channel, {
        token: token ?? "",
        getToken: renewal(as, channel, refresh),
        recoverable: Boolean(recoverable),
        positioned: Boolean(recoverable),
        joinLeave: Boolean(joinLeave),
        minResubscribeDelay: 100,
        maxResubscribeDelay: 500,
      });
      const on = (event, fields) =>
        subscription.on(event, (context) => tell({ as, event, channel, ...fields(context) }));
      on("subscribing", ({ code, reason }) => ({ code, reason }));
      on("subscribed", (context) => ({
        recoverable: Boolean(context.recoverable),
        positioned: Boolean(context.positioned),
        wasRecovering: Boolean(context.wasRecovering),
        recovered: Boolean(context.recovered),
        streamPosition: position(context.streamPosition),
      }));
      on("unsubscribed", ({ code, reason }) => ({ code, reason }));
      on("publication", published);
      on("join", ({ info }) => member(info));
      on("leave", ({ info }) => member(info));
      subscription.on("error", ({ error }) =>
        tell({ as, event: "subscription_error", channel, ...failure(error) }),
      );
    }
    subscription.subscribe();
  }

  // A request in a subscription waits until it is subscribed; one of the client need not be so.
  const where = ({ as, channel }) => {
    const client = clients.get(as);
    const subscription = client.getSubscription(channel);
    return {
      publish: (data) =>
        subscription ? subscription.publish(data) : client.publish(channel, data),
      client,
    };
  };

  const requests = {
    async publish(command) {
      await where(command).publish(encode(command.data));
      return {};
    },
    async history(command) {
      const { channel, limit, since, reverse } = command;
      const result = await where(command).client.history(channel, { limit, since, reverse });
      return { publications: result.publications.map(published), ...position(result) };
    },
    async rpc({ as, method, data }) {
      const result = await clients.get(as).rpc(method, encode(data));
      return { data: decode(result.data) };
    },
    async presence(command) {
      const { clients: found } = await where(command).client.presence(command.channel);
      return { clients: Object.values(found).map(member) };
    },
    async presence_stats(command) {
      const { numClients, numUsers } = await where(command).client.presenceStats(command.channel);
      return { clients: numClients, users: numUsers };
    },
  };

  const failure = (error) => ({
    code: error.code ?? 0,
    message: String(error.message),
    temporary: Boolean(error.temporary),
  });

  return (command) => {
    const { as, id, channel } = command;
    if (command.do === "connect") connect(command);
    else if (command.do === "disconnect") clients.get(as).disconnect();
    else if (command.do === "subscribe") subscribe(command);
    else if (command.do === "unsubscribe") clients.get(as).getSubscription(channel).unsubscribe();
    else
      requests[command.do](command).then(
        (result) => tell({ as, event: "reply", id, result }),
        (error) => tell({ as, event: "reply", id, error: failure(error) }),
      );
  };
}

if (typeof module !== "undefined") module.exports = { makeDriver };
