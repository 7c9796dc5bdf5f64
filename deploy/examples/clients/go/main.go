// A Fluxline client in Go: creates a job, watches it, reads its picture and saves it.
//
//	go run . -server 127.0.0.1:50051 -output circle.png "a large red circle on a yellow background"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fluxline "fluxline.dev/client/fluxline/v1"
)

func main() {
	server := flag.String("server", "127.0.0.1:50051", "HOST:PORT of the scheduler")
	output := flag.String("output", "picture.png", "file to write")
	width := flag.Int("width", 0, "pixels; 0 means the model's default")
	steps := flag.Int("steps", 0, "denoising steps; 0 means the model's default")
	seed := flag.Int64("seed", -1, "same seed, same picture; -1 lets the server draw one")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: client [flags] PROMPT")
		flag.PrintDefaults()
		os.Exit(2)
	}
	spec := &fluxline.ImageSpec{Prompt: flag.Arg(0)}
	if *width != 0 {
		spec.Width = ptr(int32(*width))
	}
	if *steps != 0 {
		spec.NumInferenceSteps = ptr(int32(*steps))
	}
	if *seed >= 0 {
		spec.Seed = ptr(uint64(*seed))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := draw(ctx, *server, *output, spec); err != nil {
		explain(err)
		os.Exit(1)
	}
}

func ptr[T any](value T) *T { return &value }

// draw makes the three calls that a picture takes.
func draw(ctx context.Context, server, output string, spec *fluxline.ImageSpec) error {
	connection, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	client := fluxline.NewImageServiceClient(connection)

	createCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	job, err := client.CreateImageJob(createCtx, &fluxline.CreateImageJobRequest{Spec: spec})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s: seed %d\n", job.Name, job.Spec.GetSeed())

	job, err = watch(ctx, client, job.Name)
	if err != nil {
		return err
	}
	if job.State != fluxline.ImageJob_STATE_SUCCEEDED {
		return status.ErrorProto(job.Error)
	}
	for _, advice := range job.Advisories {
		fmt.Fprintf(os.Stderr, "advice on %s: %s\n", advice.Field, advice.Message)
	}
	return save(ctx, client, job.Name, output)
}

// watch follows a job to its end; the last event holds the finished job.
func watch(ctx context.Context, client fluxline.ImageServiceClient, name string) (*fluxline.ImageJob, error) {
	events, err := client.WatchImageJob(ctx, &fluxline.WatchImageJobRequest{Name: name})
	if err != nil {
		return nil, err
	}
	var job *fluxline.ImageJob
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return job, nil
		}
		if err != nil {
			return nil, err
		}
		job = event.Job
		fmt.Fprintf(os.Stderr, "%s %d/%d\n", job.State, job.Progress.GetStep(), job.Progress.GetTotalSteps())
	}
}

// save writes the first image of a job to a file, chunk by chunk.
func save(ctx context.Context, client fluxline.ImageServiceClient, name, output string) error {
	chunks, err := client.ReadImage(ctx, &fluxline.ReadImageRequest{Name: name})
	if err != nil {
		return err
	}
	file, err := os.Create(output)
	if err != nil {
		return err
	}
	defer file.Close()
	for {
		chunk, err := chunks.Recv()
		if errors.Is(err, io.EOF) {
			fmt.Println(output)
			return file.Close()
		}
		if err != nil {
			return err
		}
		if _, err := file.Write(chunk.Chunk); err != nil {
			return err
		}
	}
}

// explain prints an error with its details: which field is wrong and what to do about it.
func explain(err error) {
	failure := status.Convert(err)
	fmt.Fprintf(os.Stderr, "%s: %s\n", failure.Code(), failure.Message())
	for _, detail := range failure.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Fprintf(os.Stderr, "  reason %s\n", detail.Reason)
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				fmt.Fprintf(os.Stderr, "  field %s: %s\n", violation.Field, violation.Description)
			}
		case *errdetails.RetryInfo:
			fmt.Fprintf(os.Stderr, "  try again in %s\n", detail.RetryDelay.AsDuration())
		}
	}
}
