// SPDX-License-Identifier: MPL-2.0

// Command alerts holds alert rules and dashboards to the metrics that a hostagent really served: every selector of every
// expression must match a series of the scrape, every label that is grouped by, or named in a text, must be one that these
// series have. It uses Prometheus' own parsers.
//
//	alerts -scrape metrics.txt hostagent.yml hostagent.json
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	path := flag.String("scrape", "", "`file` with what /metrics answered")
	flag.Parse()
	if err := run(*path, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(scrapePath string, files []string) error {
	if scrapePath == "" || len(files) == 0 {
		return errors.New("name a scrape with -scrape, and the files to look at")
	}
	text, err := os.ReadFile(scrapePath)
	if err != nil {
		return err
	}
	served, err := readScrape(text)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", scrapePath, err)
	}
	var problems []error
	for _, path := range files {
		found, err := read(path)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", path, err)
		}
		for _, e := range found {
			if err := served.check(&e); err != nil {
				problems = append(problems, fmt.Errorf("%s: %s: %s: %w", filepath.Base(path), e.where, e.text, err))
			}
		}
		fmt.Printf("%s: %d expressions\n", filepath.Base(path), len(found))
	}
	return errors.Join(problems...)
}

// read returns the expressions of a rule file or of a dashboard.
func read(path string) ([]expression, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	read := ofRules
	if filepath.Ext(path) == ".json" {
		read = ofDashboard
	}
	found, err := read(content)
	if err == nil && len(found) == 0 {
		err = errors.New("it holds no expression")
	}
	return found, err
}
