// The driver with the Go module centrifuge-go: `driver json|protobuf`. Commands come on standard
// input, events go to standard output; tests/live/sdks.py has the list of both.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

const (
	patience     = 5 * time.Second
	soonest      = 100 * time.Millisecond
	latest       = 500 * time.Millisecond
	longestBytes = 1 << 24
)

type object = map[string]any

type command struct {
	Do          string          `json:"do"`
	As          string          `json:"as"`
	ID          int             `json:"id"`
	URL         string          `json:"url"`
	Token       string          `json:"token"`
	Refresh     string          `json:"refresh"`
	Data        json.RawMessage `json:"data"`
	Channel     string          `json:"channel"`
	Method      string          `json:"method"`
	Recoverable bool            `json:"recoverable"`
	JoinLeave   bool            `json:"joinLeave"`
	Limit       int32           `json:"limit"`
	Reverse     bool            `json:"reverse"`
	Since       *position       `json:"since"`
}

type position struct {
	Offset uint64 `json:"offset"`
	Epoch  string `json:"epoch"`
}

var output sync.Mutex

func tell(as, event string, fields object) {
	fields["as"], fields["event"] = as, event
	line, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	output.Lock()
	defer output.Unlock()
	if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
		os.Exit(1)
	}
}

func failure(err error) object {
	var refusal *centrifuge.Error
	if errors.As(err, &refusal) {
		return object{"code": refusal.Code, "message": refusal.Message, "temporary": refusal.Temporary}
	}
	return object{"code": 0, "message": err.Error(), "temporary": false}
}

func text(data []byte) any {
	if len(data) == 0 {
		return nil
	}
	return json.RawMessage(data)
}

func published(publication centrifuge.Publication) object {
	fields := object{
		"data": text(publication.Data), "user": nil,
		"offset": publication.Offset, "tags": object{},
	}
	if publication.Info != nil {
		fields["user"] = publication.Info.User
	}
	if publication.Tags != nil {
		fields["tags"] = publication.Tags
	}
	return fields
}

func member(info centrifuge.ClientInfo) object {
	return object{"user": info.User, "client": info.Client}
}

// speaker is a client, and the requests that it has still to make, in order.
type speaker struct {
	client   *centrifuge.Client
	requests chan command
}

func connect(encoding string, c command) *speaker {
	config := centrifuge.Config{
		Token: c.Token, Data: c.Data,
		MinReconnectDelay: soonest, MaxReconnectDelay: latest,
	}
	if c.Refresh != "" {
		config.GetToken = func(centrifuge.ConnectionTokenEvent) (string, error) {
			tell(c.As, "renewal", object{"channel": nil})
			return c.Refresh, nil
		}
	}
	open := centrifuge.NewJsonClient
	if encoding == "protobuf" {
		open = centrifuge.NewProtobufClient
	}
	client := open(c.URL, config)
	as := c.As
	client.OnConnecting(func(e centrifuge.ConnectingEvent) {
		tell(as, "connecting", object{"code": e.Code, "reason": e.Reason})
	})
	client.OnConnected(func(e centrifuge.ConnectedEvent) {
		tell(as, "connected", object{"client": e.ClientID, "data": text(e.Data)})
	})
	client.OnDisconnected(func(e centrifuge.DisconnectedEvent) {
		tell(as, "disconnected", object{"code": e.Code, "reason": e.Reason})
	})
	client.OnError(func(e centrifuge.ErrorEvent) { tell(as, "error", failure(e.Error)) })
	s := &speaker{client, make(chan command, 10000)}
	go func() {
		for request := range s.requests {
			s.answer(request)
		}
	}()
	// A failed first dial is told as an error, and tried again.
	_ = client.Connect()
	return s
}

func (s *speaker) subscribe(c command) error {
	if subscription, known := s.client.GetSubscription(c.Channel); known {
		return subscription.Subscribe()
	}
	config := centrifuge.SubscriptionConfig{
		Token:       c.Token,
		Recoverable: c.Recoverable, Positioned: c.Recoverable, JoinLeave: c.JoinLeave,
		MinResubscribeDelay: soonest, MaxResubscribeDelay: latest,
	}
	if c.Refresh != "" {
		config.GetToken = func(centrifuge.SubscriptionTokenEvent) (string, error) {
			tell(c.As, "renewal", object{"channel": c.Channel})
			return c.Refresh, nil
		}
	}
	subscription, err := s.client.NewSubscription(c.Channel, config)
	if err != nil {
		return err
	}
	on := func(event string, fields object) {
		fields["channel"] = c.Channel
		tell(c.As, event, fields)
	}
	subscription.OnSubscribing(func(e centrifuge.SubscribingEvent) {
		on("subscribing", object{"code": e.Code, "reason": e.Reason})
	})
	subscription.OnSubscribed(func(e centrifuge.SubscribedEvent) {
		var at any
		if e.StreamPosition != nil {
			at = position{e.StreamPosition.Offset, e.StreamPosition.Epoch}
		}
		on("subscribed", object{
			"recoverable": e.Recoverable, "positioned": e.Positioned,
			"wasRecovering": e.WasRecovering, "recovered": e.Recovered, "streamPosition": at,
		})
	})
	subscription.OnUnsubscribed(func(e centrifuge.UnsubscribedEvent) {
		on("unsubscribed", object{"code": e.Code, "reason": e.Reason})
	})
	subscription.OnPublication(func(e centrifuge.PublicationEvent) {
		on("publication", published(e.Publication))
	})
	subscription.OnJoin(func(e centrifuge.JoinEvent) { on("join", member(e.ClientInfo)) })
	subscription.OnLeave(func(e centrifuge.LeaveEvent) { on("leave", member(e.ClientInfo)) })
	subscription.OnError(func(e centrifuge.SubscriptionErrorEvent) {
		on("subscription_error", failure(e.Error))
	})
	return subscription.Subscribe()
}

func (s *speaker) answer(c command) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result, err := s.ask(ctx, c)
	if err != nil {
		tell(c.As, "reply", object{"id": c.ID, "error": failure(err)})
		return
	}
	tell(c.As, "reply", object{"id": c.ID, "result": result})
}

func (s *speaker) ask(ctx context.Context, c command) (object, error) {
	switch c.Do {
	case "publish":
		// One in a subscription waits until it is subscribed; one of the client does not.
		if subscription, known := s.client.GetSubscription(c.Channel); known {
			_, err := subscription.Publish(ctx, c.Data)
			return object{}, err
		}
		_, err := s.client.Publish(ctx, c.Channel, c.Data)
		return object{}, err
	case "history":
		options := []centrifuge.HistoryOption{
			centrifuge.WithHistoryLimit(c.Limit), centrifuge.WithHistoryReverse(c.Reverse),
		}
		if c.Since != nil {
			since := centrifuge.StreamPosition{Offset: c.Since.Offset, Epoch: c.Since.Epoch}
			options = append(options, centrifuge.WithHistorySince(&since))
		}
		found, err := s.client.History(ctx, c.Channel, options...)
		publications := []object{}
		for _, each := range found.Publications {
			publications = append(publications, published(each))
		}
		return object{
			"publications": publications, "offset": found.Offset, "epoch": found.Epoch,
		}, err
	case "rpc":
		found, err := s.client.RPC(ctx, c.Method, c.Data)
		return object{"data": text(found.Data)}, err
	case "presence":
		found, err := s.client.Presence(ctx, c.Channel)
		clients := []object{}
		for _, info := range found.Clients {
			clients = append(clients, member(info))
		}
		return object{"clients": clients}, err
	case "presence_stats":
		found, err := s.client.PresenceStats(ctx, c.Channel)
		return object{"clients": found.NumClients, "users": found.NumUsers}, err
	}
	return nil, errors.New("no such command: " + c.Do)
}

func main() {
	speakers := map[string]*speaker{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, longestBytes)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			panic(err)
		}
		var err error
		switch c.Do {
		case "connect":
			speakers[c.As] = connect(os.Args[1], c)
		case "disconnect":
			err = speakers[c.As].client.Disconnect()
		case "subscribe":
			err = speakers[c.As].subscribe(c)
		case "unsubscribe":
			subscription, _ := speakers[c.As].client.GetSubscription(c.Channel)
			err = subscription.Unsubscribe()
		default:
			speakers[c.As].requests <- c
		}
		if err != nil {
			panic(err)
		}
	}
}
