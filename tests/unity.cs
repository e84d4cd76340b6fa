// What FastIM.cs uses of Unity, for a console: a main thread that takes up methods after each await.
using System;
using System.Collections.Concurrent;
using System.Reflection;
using System.Runtime.Serialization.Json;
using System.Text;
using System.Threading;
using System.Xml;

namespace UnityEngine
{
    public class MonoBehaviour { }

    public static class JsonUtility
    {
        // Fields that the text does not have stay as they are, and what has no field is left out.
        public static T FromJson<T>(string text)
        {
            byte[] bytes = Encoding.UTF8.GetBytes(text);
            var document = new XmlDocument();
            using (var reader = JsonReaderWriterFactory.CreateJsonReader(bytes, XmlDictionaryReaderQuotas.Max))
                document.Load(reader);
            return (T)Read(document.DocumentElement, typeof(T));
        }

        static object Read(XmlElement from, Type type)
        {
            if (from.GetAttribute("type") == "null") return null;
            if (type == typeof(string)) return from.InnerText;
            if (type.IsPrimitive) return Convert.ChangeType(from.InnerText, type);
            if (type.IsArray)
            {
                Array items = Array.CreateInstance(type.GetElementType(), from.ChildNodes.Count);
                for (int at = 0; at < items.Length; at++)
                    items.SetValue(Read((XmlElement)from.ChildNodes[at], type.GetElementType()), at);
                return items;
            }
            object made = Activator.CreateInstance(type, true);
            foreach (FieldInfo field in type.GetFields())
                if (from[field.Name] != null) field.SetValue(made, Read(from[field.Name], field.FieldType));
            return made;
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
