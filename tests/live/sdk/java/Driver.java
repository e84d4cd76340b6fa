// The driver with the Maven package centrifuge-java, which speaks Protobuf only. Commands come on
// standard input, events go to standard output; tests/live/sdks.py has the list of both.

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.github.centrifugal.centrifuge.*;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

public final class Driver {
    private static final int SOONEST = 100, LATEST = 500;
    private static final Gson GSON =
            new GsonBuilder().serializeNulls().disableHtmlEscaping().create();
    private static final PrintStream OUT =
            new PrintStream(System.out, true, StandardCharsets.UTF_8);

    private final Map<String, Client> clients = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        Driver driver = new Driver();
        BufferedReader lines =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = lines.readLine()) != null; ) {
            driver.carryOut(JsonParser.parseString(line).getAsJsonObject());
        }
        System.exit(0);
    }

    private void carryOut(JsonObject command) throws Exception {
        String as = text(command, "as");
        String channel = text(command, "channel");
        switch (text(command, "do")) {
            case "connect" -> connect(command);
            case "disconnect" -> clients.get(as).disconnect();
            case "subscribe" -> subscribe(command);
            case "unsubscribe" -> clients.get(as).getSubscription(channel).unsubscribe();
            case "publish" -> publish(command);
            case "history" -> history(command);
            case "rpc" -> clients.get(as).rpc(
                    text(command, "method"), bytes(command.get("data")),
                    answer(command, result -> object("data", data(result.getData()))));
            case "presence" -> clients.get(as).presence(channel, answer(command, result -> {
                JsonArray members = new JsonArray();
                result.getClients().values().forEach(info -> members.add(member(info)));
                return object("clients", members);
            }));
            case "presence_stats" -> clients.get(as).presenceStats(
                    channel, answer(command, result -> object(
                            "clients", result.getNumClients(), "users", result.getNumUsers())));
            default -> throw new IllegalArgumentException(command.toString());
        }
    }

    private void connect(JsonObject command) {
        String as = text(command, "as");
        Options options = new Options();
        options.setToken(text(command, "token"));
        if (is(command, "refresh")) {
            options.setTokenGetter(new ConnectionTokenGetter() {
                @Override
                public void getConnectionToken(ConnectionTokenEvent event, TokenCallback given) {
                    tell(as, "renewal", "channel", null);
                    given.Done(null, text(command, "refresh"));
                }
            });
        }
        if (is(command, "data")) {
            options.setData(bytes(command.get("data")));
        }
        options.setMinReconnectDelay(SOONEST);
        options.setMaxReconnectDelay(LATEST);
        Client client = new Client(text(command, "url"), options, new EventListener() {
            @Override
            public void onConnecting(Client client, ConnectingEvent event) {
                tell(as, "connecting", "code", event.getCode(), "reason", event.getReason());
            }

            @Override
            public void onConnected(Client client, ConnectedEvent event) {
                tell(as, "connected", "client", event.getClient(), "data", data(event.getData()));
            }

            @Override
            public void onDisconnected(Client client, DisconnectedEvent event) {
                tell(as, "disconnected", "code", event.getCode(), "reason", event.getReason());
            }

            @Override
            public void onError(Client client, ErrorEvent event) {
                tell(as, "error", failure(event.getError()));
            }
        });
        clients.put(as, client);
        client.connect();
    }

    private void subscribe(JsonObject command) throws DuplicateSubscriptionException {
        String as = text(command, "as");
        Client client = clients.get(as);
        Subscription subscription = client.getSubscription(text(command, "channel"));
        if (subscription == null) {
            SubscriptionOptions options = new SubscriptionOptions();
            options.setToken(text(command, "token"));
            if (is(command, "refresh")) {
                options.setTokenGetter(new SubscriptionTokenGetter() {
                    @Override
                    public void getSubscriptionToken(
                            SubscriptionTokenEvent event, TokenCallback given) {
                        tell(as, "renewal", "channel", event.getChannel());
                        given.Done(null, text(command, "refresh"));
                    }
                });
            }
            options.setRecoverable(is(command, "recoverable"));
            options.setPositioned(is(command, "recoverable"));
            options.setJoinLeave(is(command, "joinLeave"));
            options.setMinResubscribeDelay(SOONEST);
            options.setMaxResubscribeDelay(LATEST);
            subscription =
                    client.newSubscription(text(command, "channel"), options, new Listener(as));
        }
        subscription.subscribe();
    }

    private static final class Listener extends SubscriptionEventListener {
        private final String as;

        Listener(String as) {
            this.as = as;
        }

        private void tellOf(Subscription subscription, String event, Object... fields) {
            JsonObject told = object(fields);
            told.addProperty("channel", subscription.getChannel());
            tell(as, event, told);
        }

        @Override
        public void onSubscribing(Subscription sub, SubscribingEvent event) {
            tellOf(sub, "subscribing", "code", event.getCode(), "reason", event.getReason());
        }

        @Override
        public void onSubscribed(Subscription sub, SubscribedEvent event) {
            tellOf(sub, "subscribed",
                    "recoverable", event.getRecoverable(), "positioned", event.getPositioned(),
                    "wasRecovering", event.wasRecovering(), "recovered", event.getRecovered(),
                    "streamPosition", position(event.getStreamPosition()));
        }

        @Override
        public void onUnsubscribed(Subscription sub, UnsubscribedEvent event) {
            tellOf(sub, "unsubscribed", "code", event.getCode(), "reason", event.getReason());
        }

        @Override
        public void onPublication(Subscription sub, PublicationEvent event) {
            JsonObject tags = new JsonObject();
            if (event.getTags() != null) {
                event.getTags().forEach(tags::addProperty);
            }
            tellOf(sub, "publication",
                    "data", data(event.getData()), "user", user(event.getInfo()),
                    "offset", event.getOffset(), "tags", tags);
        }

        @Override
        public void onJoin(Subscription sub, JoinEvent event) {
            tellOf(sub, "join", "user", event.getInfo().getUser(),
                    "client", event.getInfo().getClient());
        }

        @Override
        public void onLeave(Subscription sub, LeaveEvent event) {
            tellOf(sub, "leave", "user", event.getInfo().getUser(),
                    "client", event.getInfo().getClient());
        }

        @Override
        public void onError(Subscription sub, SubscriptionErrorEvent event) {
            JsonObject told = failure(event.getError());
            told.addProperty("channel", sub.getChannel());
            tell(as, "subscription_error", told);
        }
    }

    private void publish(JsonObject command) {
        Client client = clients.get(text(command, "as"));
        String channel = text(command, "channel");
        byte[] data = bytes(command.get("data"));
        ResultCallback<PublishResult> done = answer(command, result -> new JsonObject());
        Subscription subscription = client.getSubscription(channel);
        // One in a subscription waits until it is subscribed; one of the client does not.
        if (subscription != null) {
            subscription.publish(data, done);
        } else {
            client.publish(channel, data, done);
        }
    }

    private void history(JsonObject command) {
        HistoryOptions.Builder options = new HistoryOptions.Builder()
                .withLimit(is(command, "limit") ? command.get("limit").getAsInt() : 0)
                .withReverse(is(command, "reverse"));
        if (is(command, "since")) {
            JsonObject since = command.getAsJsonObject("since");
            options.withSince(new StreamPosition(
                    since.get("offset").getAsLong(), since.get("epoch").getAsString()));
        }
        clients.get(text(command, "as")).history(
                text(command, "channel"), options.build(), answer(command, result -> {
                    JsonArray publications = new JsonArray();
                    for (Publication each : result.getPublications()) {
                        publications.add(object(
                                "data", data(each.getData()), "user", user(each.getInfo()),
                                "offset", each.getOffset(), "tags", new JsonObject()));
                    }
                    return object("publications", publications,
                            "offset", result.getOffset(), "epoch", result.getEpoch());
                }));
    }

    private interface Shown<T> {
        JsonObject of(T result);
    }

    private static <T> ResultCallback<T> answer(JsonObject command, Shown<T> shown) {
        return (error, result) -> tell(
                text(command, "as"), "reply", "id", command.get("id"),
                error == null ? "result" : "error",
                error == null ? shown.of(result) : failure(error));
    }

    private static JsonObject failure(Throwable error) {
        Throwable cause = error;
        while (cause.getCause() != null) {
            cause = cause.getCause();
        }
        if (cause instanceof ReplyError reply) {
            return object("code", reply.getCode(), "message", reply.getMessage(),
                    "temporary", reply.isTemporary());
        }
        return object("code", 0, "message", String.valueOf(cause), "temporary", false);
    }

    // The getters of a position are not public.
    private static JsonElement position(StreamPosition at) {
        if (at == null) {
            return JsonNull.INSTANCE;
        }
        try {
            JsonObject shown = new JsonObject();
            for (String field : List.of("offset", "epoch")) {
                String name = "get" + field.substring(0, 1).toUpperCase() + field.substring(1);
                Method getter = StreamPosition.class.getDeclaredMethod(name);
                getter.setAccessible(true);
                shown.add(field, GSON.toJsonTree(getter.invoke(at)));
            }
            return shown;
        } catch (ReflectiveOperationException exception) {
            throw new IllegalStateException(exception);
        }
    }

    private static JsonObject member(ClientInfo info) {
        return object("user", info.getUser(), "client", info.getClient());
    }

    private static String user(ClientInfo info) {
        return info == null ? null : info.getUser();
    }

    private static JsonElement data(byte[] data) {
        return data == null || data.length == 0
                ? JsonNull.INSTANCE
                : JsonParser.parseString(new String(data, StandardCharsets.UTF_8));
    }

    private static byte[] bytes(JsonElement data) {
        return GSON.toJson(data).getBytes(StandardCharsets.UTF_8);
    }

    private static String text(JsonObject command, String field) {
        return is(command, field) ? command.get(field).getAsString() : "";
    }

    private static boolean is(JsonObject command, String field) {
        JsonElement value = command.get(field);
        return value != null && !List.of("null", "false", "\"\"").contains(value.toString());
    }

    private static JsonObject object(Object... fields) {
        if (fields.length == 1) {
            return (JsonObject) fields[0];
        }
        JsonObject made = new JsonObject();
        for (int i = 0; i < fields.length; i += 2) {
            Object value = fields[i + 1];
            made.add((String) fields[i],
                    value instanceof JsonElement element ? element : GSON.toJsonTree(value));
        }
        return made;
    }

    private static synchronized void tell(String as, String event, Object... fields) {
        JsonObject told = object(fields);
        told.addProperty("as", as);
        told.addProperty("event", event);
        OUT.println(GSON.toJson(told));
    }
}
