package main

import (
	"context"
	"errors"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

// The library leaves SCRAM to its user.
type conversation struct {
	hash scram.HashGeneratorFcn
	*scram.ClientConversation
}

func (c *conversation) Begin(user, password, authzID string) error {
	client, err := c.hash.NewClient(user, password, authzID)
	if err != nil {
		return err
	}
	c.ClientConversation = client.NewConversation()
	return nil
}

type bearer string

func (token bearer) Token() (*sarama.AccessToken, error) {
	return &sarama.AccessToken{Token: string(token)}, nil
}

func withSarama(_ context.Context, one Case) error {
	config := sarama.NewConfig()
	config.Version = sarama.V2_8_0_0
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	tls, err := one.tls()
	if err != nil {
		return err
	}
	config.Net.TLS.Enable, config.Net.TLS.Config = true, tls
	if one.Mechanism != "" {
		sasl := &config.Net.SASL
		sasl.Enable, sasl.Mechanism = true, sarama.SASLMechanism(one.Mechanism)
		sasl.User, sasl.Password = one.User, one.Password
		hash := scram.SHA256
		if one.Mechanism == sarama.SASLTypeSCRAMSHA512 {
			hash = scram.SHA512
		}
		sasl.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &conversation{hash: hash} }
		sasl.TokenProvider = bearer(one.Password)
	}
	client, err := sarama.NewClient([]string{one.Bootstrap}, config)
	if err != nil {
		return err
	}
	defer client.Close()
	producer, err := sarama.NewSyncProducerFromClient(client)
	if err != nil {
		return err
	}
	defer producer.Close()
	_, offset, err := producer.SendMessage(&sarama.ProducerMessage{Topic: one.Topic, Value: sarama.StringEncoder(one.ID)})
	if err != nil {
		return err
	}
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return err
	}
	defer consumer.Close()
	partition, err := consumer.ConsumePartition(one.Topic, 0, offset)
	if err != nil {
		return err
	}
	defer partition.Close()
	if record := <-partition.Messages(); string(record.Value) != one.ID {
		return errors.New("another record")
	}
	return nil
}
