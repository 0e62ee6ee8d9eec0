// Command login-cases LIBRARY FILE does what login_cases.py does, with sarama or franz-go.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
)

const (
	patience = 40 * time.Second
	atATime  = 16
)

// Case is a client with its settings.
type Case struct {
	ID, Bootstrap, Topic, CA, Certificate, Key string
	Mechanism, User, Password                  string
	Token                                      bool
}

func main() {
	text, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	var cases []Case
	if err := json.Unmarshal(text, &cases); err != nil {
		log.Fatal(err)
	}
	roundTrip := map[string]func(context.Context, Case) error{"sarama": withSarama, "franz-go": withFranz}[os.Args[1]]
	queue := make(chan Case)
	var workers sync.WaitGroup
	for range atATime {
		workers.Go(func() {
			for one := range queue {
				fmt.Printf("%s\t%s\n", one.ID, outcome(roundTrip, one))
			}
		})
	}
	for _, one := range cases {
		queue <- one
	}
	close(queue)
	workers.Wait()
}

func outcome(roundTrip func(context.Context, Case) error, one Case) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	came := make(chan string, 1)
	go func() { came <- name(roundTrip(ctx, one)) }()
	select {
	case name := <-came:
		return name
	case <-ctx.Done():
		return "hang"
	}
}

func (one Case) tls() (*tls.Config, error) {
	text, err := os.ReadFile(one.CA)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(text)
	if one.Certificate != "" {
		own, err := tls.LoadX509KeyPair(one.Certificate, one.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config, nil
}

// name is the error's class: Kafka's error, or what TLS or the network said.
func name(err error) string {
	var (
		ofSarama  sarama.KError
		ofFranz   *kerr.Error
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		network   *net.OpError
	)
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &ofSarama):
		if known, is := kerr.ErrorForCode(int16(ofSarama)).(*kerr.Error); is {
			return known.Message
		}
		return ofSarama.Error()
	case errors.As(err, &ofFranz):
		return ofFranz.Message
	case errors.As(err, &authority):
		return "x509.UnknownAuthorityError"
	case errors.As(err, &host):
		return "x509.HostnameError"
	case errors.As(err, &invalid):
		return "x509.CertificateInvalidError"
	case errors.Is(err, sarama.ErrSASLAuthenticationFailed):
		return kerr.SaslAuthenticationFailed.Message
	case errors.As(err, &network) && network.Op == "remote error":
		// Which alert it is depends on the broker's TLS library.
		return "TLS alert"
	case errors.Is(err, io.EOF):
		return "EOF"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, context.DeadlineExceeded):
		return "hang"
	case errors.Is(err, sarama.ErrOutOfBrokers):
		return "ErrOutOfBrokers"
	}
	return err.Error()
}
