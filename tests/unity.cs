// What FastIM.cs uses of Unity, for a console: a main thread that takes up methods after each await.
using System;
using System.Collections.Concurrent;
using System.IO;
using System.Reflection;
using System.Runtime.Serialization.Json;
using System.Text;
using System.Threading;

namespace UnityEngine
{
    public class MonoBehaviour { }

    public static class JsonUtility
    {
        public static T FromJson<T>(string text)
        {
            using (var stream = new MemoryStream(Encoding.UTF8.GetBytes(text)))
                return (T)new DataContractJsonSerializer(typeof(T)).ReadObject(stream);
        }
    }
}

class MainThread : SynchronizationContext
{
    readonly BlockingCollection<Action> turns = new BlockingCollection<Action>();
    public override void Post(SendOrPostCallback call, object state) { Do(() => call(state)); }
    public void Do(Action action) { if (!turns.IsAddingCompleted) turns.Add(action); }
    public void Run() { foreach (Action turn in turns.GetConsumingEnumerable()) turn(); }
    public void End() { turns.CompleteAdding(); }
}

static class Program
{
    static void Call(FastIM chat, string name)
    {
        typeof(FastIM).GetMethod(name, BindingFlags.Instance | BindingFlags.NonPublic).Invoke(chat, null);
    }

    static void Main(string[] given)
    {
        Console.OutputEncoding = new UTF8Encoding(false);
        Console.InputEncoding = new UTF8Encoding(false);
        var main = new MainThread();
        SynchronizationContext.SetSynchronizationContext(main);
        int thread = Thread.CurrentThread.ManagedThreadId;
        var chat = new FastIM { url = given[0], group = given[1], user = given[2], password = given[3] };
        chat.Said += message =>
        {
            if (Thread.CurrentThread.ManagedThreadId != thread) throw new Exception("another thread");
            Console.WriteLine($"{message.userId}: {message.info}");
            Console.Out.Flush();
        };
        chat.NotSent += (text, why) =>
        {
            Console.WriteLine($"not sent: {text} ({why})");
            Console.Out.Flush();
        };
        chat.Ended += why => { Console.Error.WriteLine(why); main.End(); };
        new Thread(() =>
        {
            string line;
            while ((line = Console.ReadLine()) != null) { string said = line; main.Do(() => chat.Say(said)); }
            main.Do(() => { Call(chat, "OnDestroy"); main.End(); });
        }) { IsBackground = true }.Start();
        Call(chat, "Start");
        main.Run();
    }
}
