// Command testcontainers-go starts the image that it is given with the Kafka module of Testcontainers for Go, prints
// the address for clients, and removes the container when its input ends.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/kafka"
)

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, image string) error {
	container, err := kafka.Run(ctx, image, kafka.WithClusterID("test-cluster"))
	defer func() {
		// The module's entry point is a shell, which does not pass signals on.
		if err := testcontainers.TerminateContainer(container, testcontainers.StopTimeout(0)); err != nil {
			log.Print(err)
		}
	}()
	if err != nil {
		return err
	}
	brokers, err := container.Brokers(ctx)
	if err != nil {
		return err
	}
	fmt.Println(brokers[0])
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
