package e2e

import (
	"testing"

	"github.com/lictor-mesh/lictor/tools/e2e/beside"
)

// Most tests wait most of the time, and run beside each other. Alone are those
// whose bound is near to what is possible on two cores with nothing else going
// on, and those that take the cores for themselves.
func TestMain(m *testing.M) {
	beside.Main(m, beside.Options{
		First: []string{
			"TestChurnLeavesNothing",
			"TestWithoutRoomProxiesWaitForCapacity",
			"TestStreamsStayWhereTheySettled",
			"TestStreamsSettleWhenAServerJoins",
			"TestEnvoysRunOnWithoutLictord",
			"TestAStoppedEnvoyIsNoRefusal",
			"TestAServiceMovesToLictorAndBack",
		},
		Alone: []string{
			"TestAFleetFailsOverWhenConsulAdmitsIt",
			"TestAFullServerSendsItsEnvoysElsewhere",
			"TestAKilledServerIsLeft",
			"TestANewServerIsInTheMapAtOnce",
			"TestCountsAreExact",
			"TestServersChangeUnderAConnectStorm",
			"TestRealServersMoveUnderAConnectStorm",
			"TestADrainKeepsItsPace",
			"TestADrainWithoutRoomKeepsStreams",
		},
	})
}
