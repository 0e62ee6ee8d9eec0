package main

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

func (one Case) mechanism() sasl.Mechanism {
	login := scram.Auth{User: one.User, Pass: one.Password, IsToken: one.Token}
	switch one.Mechanism {
	case "PLAIN":
		return plain.Auth{User: one.User, Pass: one.Password}.AsMechanism()
	case "SCRAM-SHA-256":
		return login.AsSha256Mechanism()
	case "SCRAM-SHA-512":
		return login.AsSha512Mechanism()
	default:
		return oauth.Auth{Token: one.Password}.AsMechanism()
	}
}

func withFranz(ctx context.Context, one Case) error {
	tls, err := one.tls()
	if err != nil {
		return err
	}
	options := []kgo.Opt{kgo.SeedBrokers(one.Bootstrap), kgo.DialTLSConfig(tls)}
	if one.Mechanism != "" {
		options = append(options, kgo.SASL(one.mechanism()))
	}
	producer, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	defer producer.Close()
	// Records wait for a broker however long that takes; this does not.
	if err := producer.Ping(ctx); err != nil {
		return err
	}
	record, err := producer.ProduceSync(ctx, &kgo.Record{Topic: one.Topic, Value: []byte(one.ID)}).First()
	if err != nil {
		return err
	}
	from := map[string]map[int32]kgo.Offset{one.Topic: {0: kgo.NewOffset().At(record.Offset)}}
	consumer, err := kgo.NewClient(append(options, kgo.ConsumePartitions(from))...)
	if err != nil {
		return err
	}
	defer consumer.Close()
	fetches := consumer.PollFetches(ctx)
	if err := fetches.Err0(); err != nil {
		return err
	}
	if records := fetches.Records(); string(records[0].Value) != one.ID {
		return errors.New("another record")
	}
	return nil
}
