// A chat in one group of fastimd, for Unity 2021 LTS or later. Needs no package.
// Not for WebGL builds: there is no ClientWebSocket there; call chat.mjs from a .jslib instead.
//
// Put it on a game object. Everything here runs on Unity's main thread, the events too: Unity takes
// up a method there after each await.

using System;
using System.Collections.Generic;
using System.IO;
using System.Net.Http;
using System.Net.WebSockets;
using System.Text;
using System.Threading;
using System.Threading.Tasks;
using UnityEngine;

public class FastIM : MonoBehaviour
{
    [Serializable]
    public class Message
    {
        public string groupId;
        public string userId;
        public string info;
        public long ts;
    }

    public string url = "http://127.0.0.1:9000";
    public string group = "1";
    public string user = "mara";
    public string password = "secret";

    public event Action<Message> Said = delegate { }; // each message once, in order
    public event Action<string, string> NotSent = delegate { }; // a text that is not taken, and why
    public event Action<string> Ended = delegate { }; // there is no use in trying again

    [Serializable] class Answer { public int code; public string msg; }
    [Serializable] class Declined { public int code; public string msg; public string data; }
    [Serializable] class History { public string[] data; }
    [Serializable] class Greeting { public Message[] list; }

    class EndedException : Exception { public EndedException(string why) : base(why) { } }
    class NotLoggedInException : Exception { }

    static readonly TimeSpan patience = TimeSpan.FromSeconds(15); // for the greeting, and for an answer

    readonly HttpClient http = new HttpClient { Timeout = patience };
    readonly CancellationTokenSource stop = new CancellationTokenSource();
    readonly System.Random random = new System.Random();
    readonly List<string> unheard = new List<string>(); // said, and not yet come back
    int sent; // how many of those were sent on this connection
    bool isSending;
    ClientWebSocket socket; // while it is live
    string token = "";
    bool isLoggedIn;
    long lastTs = -1; // of the newest message shown; -1: there was no greeting yet
    int failures;

    async void Start()
    {
        try { await Run(); }
        catch (EndedException why) { Ended(why.Message); }
        catch (OperationCanceledException) { } // the object is gone
    }

    void OnDestroy()
    {
        stop.Cancel();
        http.Dispose();
    }

    // Sends a text, now or as soon as there is a connection.
    public void Say(string text)
    {
        unheard.Add(text);
        SendUnheard();
    }

    async Task Run()
    {
        if (Encoding.UTF8.GetByteCount(user) != user.Length)
            throw new EndedException("HttpClient sends headers of ASCII only: so must the user id be");
        while (true)
        {
            double bound = Math.Min(30, Math.Pow(2, failures++));
            TimeSpan wait = TimeSpan.FromSeconds(random.NextDouble() * bound);
            try
            {
                if (!isLoggedIn) await LogIn();
                string reason = await Talk();
                if (reason.StartsWith("restart "))
                    wait = TimeSpan.FromMilliseconds(int.Parse(reason.Substring("restart ".Length)));
            }
            catch (NotLoggedInException) { isLoggedIn = false; }
            catch (Exception failure) when (IsOfTheNetwork(failure)) { } // try again
            await Task.Delay(wait, stop.Token);
        }
    }

    bool IsOfTheNetwork(Exception failure)
    {
        return !stop.IsCancellationRequested
            && (failure is WebSocketException || failure is HttpRequestException
                || failure is IOException || failure is OperationCanceledException);
    }

    async Task LogIn()
    {
        string answer = await Post("/user/login", "userId", user, "password", password);
        Answer login = JsonUtility.FromJson<Answer>(answer);
        if (login.code != 200) throw new EndedException("the login is refused: " + login.msg);
        token = login.msg;
        await Post("/user/joinGroup", "groupId", group);
        isLoggedIn = true;
    }

    // One connection, from its beginning to its end; returns why it was closed.
    async Task<string> Talk()
    {
        using (var opened = new ClientWebSocket())
        using (var late = CancellationTokenSource.CreateLinkedTokenSource(stop.Token))
        {
            late.CancelAfter(patience);
            string path = $"{Escape(group)}/{Escape(user)}/{Escape(token)}";
            var address = new Uri($"ws{url.Substring("http".Length)}/group/chat/{path}");
            Task connecting = opened.ConnectAsync(address, late.Token);
            await Task.WhenAny(connecting, Task.Delay(-1, late.Token)); // Mono does not heed the token
            late.Token.ThrowIfCancellationRequested();
            await connecting;
            try
            {
                string frame = await Receive(opened, late.Token);
                if (frame != null)
                {
                    await CatchUp(JsonUtility.FromJson<Greeting>(frame).list);
                    failures = 0;
                    socket = opened;
                    SendUnheard();
                }
                while (frame != null && (frame = await Receive(opened, stop.Token)) != null)
                {
                    Declined declined = JsonUtility.FromJson<Declined>(frame);
                    if (declined.code != 0) Decline(declined);
                    else Take(JsonUtility.FromJson<Message>(frame));
                }
            }
            finally
            {
                socket = null;
                sent = 0;
            }
            string reason = opened.CloseStatusDescription ?? "";
            switch ((int)(opened.CloseStatus ?? 0))
            {
                // Connecting again would end in the same way.
                case 1002: case 1003: case 1007: case 1008: case 1009:
                    throw new EndedException($"closed: {(int)opened.CloseStatus} {reason}");
            }
            return reason;
        }
    }

    // The next text frame; null when the daemon closes.
    async Task<string> Receive(ClientWebSocket from, CancellationToken until)
    {
        var buffer = new ArraySegment<byte>(new byte[16384]);
        using (var frame = new MemoryStream())
        {
            WebSocketReceiveResult part;
            do
            {
                part = await from.ReceiveAsync(buffer, until);
                if (part.MessageType == WebSocketMessageType.Close) return null;
                frame.Write(buffer.Array, 0, part.Count);
            }
            while (!part.EndOfMessage);
            string text = Encoding.UTF8.GetString(frame.ToArray());
            if (text == "440") throw new NotLoggedInException();
            return text;
        }
    }

    // A ClientWebSocket sends one text at a time.
    async void SendUnheard()
    {
        if (isSending) return;
        isSending = true;
        ClientWebSocket to = socket;
        try
        {
            while (to != null && to == socket && sent < unheard.Count)
            {
                var text = new ArraySegment<byte>(Encoding.UTF8.GetBytes(unheard[sent++]));
                await to.SendAsync(text, WebSocketMessageType.Text, true, stop.Token);
            }
        }
        catch (Exception failure) when (IsOfTheNetwork(failure) || stop.IsCancellationRequested)
        {
            // It is sent again after reconnecting.
        }
        catch (ObjectDisposedException) { } // likewise
        isSending = false;
        if (socket != null && socket != to) SendUnheard();
    }

    // Takes what came since the last connection: the greeting, and what lies before it.
    async Task CatchUp(Message[] greeting)
    {
        var missed = new List<Message>(greeting);
        while (missed.Count > 0 && lastTs >= 0 && missed[0].ts > lastTs)
        {
            Message first = missed[0];
            string answer = await Post("/group/listOldMessage", "groupId", first.groupId,
                "userId", first.userId, "ts", first.ts.ToString(), "count", "100");
            string[] before = JsonUtility.FromJson<History>(answer).data;
            if (before == null || before.Length == 0) break; // or a hook keeps them to itself
            missed.InsertRange(0, Array.ConvertAll(before, JsonUtility.FromJson<Message>));
        }
        missed.ForEach(Take);
        lastTs = Math.Max(lastTs, 0);
    }

    void Take(Message message)
    {
        if (message.ts <= lastTs) return; // it is known
        lastTs = message.ts;
        if (message.userId == user)
        {
            // Texts come back in order, so one that is not known is the first, changed by a hook;
            // before anything was sent on this connection it is another device's.
            int at = unheard.IndexOf(message.info);
            Forget(at < 0 && sent > 0 ? 0 : at);
        }
        Said(message);
    }

    // A hook refuses a text, or has failed.
    void Decline(Declined declined)
    {
        Forget(unheard.IndexOf(declined.data));
        NotSent(declined.data, declined.msg);
    }

    void Forget(int at)
    {
        if (at < 0) return;
        unheard.RemoveAt(at);
        if (at < sent) sent--;
    }

    async Task<string> Post(string path, params string[] namesAndValues)
    {
        var fields = new List<string>();
        for (int at = 0; at < namesAndValues.Length; at += 2)
            fields.Add($"{namesAndValues[at]}={Escape(namesAndValues[at + 1])}");
        using (var request = new HttpRequestMessage(HttpMethod.Post, url + path))
        {
            request.Headers.TryAddWithoutValidation("userId", user);
            request.Headers.TryAddWithoutValidation("token", token);
            request.Content = new StringContent(
                string.Join("&", fields), Encoding.UTF8, "application/x-www-form-urlencoded");
            using (HttpResponseMessage response = await http.SendAsync(request, stop.Token))
            {
                string text = await response.Content.ReadAsStringAsync();
                int status = (int)response.StatusCode;
                if (status >= 400 && status < 500 && status != 408 && status != 429)
                    throw new EndedException($"{status}: {text}");
                response.EnsureSuccessStatusCode();
                if (JsonUtility.FromJson<Answer>(text).code == 440) throw new NotLoggedInException();
                return text;
            }
        }
    }

    static string Escape(string text)
    {
        return Uri.EscapeDataString(text);
    }
}
